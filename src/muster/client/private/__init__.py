"""A client's private sessions: its own process has embedding and head, the machines that it names run the rest.

Reading order: `session` (one set of machines, one step at a time), `generate` (requests, and what happens when a
machine is lost).
"""
