"""Private sessions: roles of one client's session on this machine.

Reading order: `model` (what it holds), `session` (the roles at work), `accept` (what must hold before), `kind` (from an
assignment of a pool to a session, and who may speak with it). What the roles do is in `private`.
"""
