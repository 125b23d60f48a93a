"""The place that holds a client's connection: keeps every request whole while pipelines come and go.

Reading order: `events` (what it is told, what it wants done), `accept` (which tokens count), `state` (pure: which
request runs where), `session` (the asyncio shell that the API talks to).
"""
