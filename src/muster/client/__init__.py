"""The place that holds a client's connection: keeps every request whole while pipelines come and go.

Reading order: `events` (what it is told, what it wants done), `accept` (which tokens count), `live` (one
request), `open_route` (one pipeline, as it was measured), `routing` (where a request goes), `state` (pure: all of it),
`session` (the asyncio shell that the API talks to).
"""
