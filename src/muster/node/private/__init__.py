"""Private sessions on this machine: roles that a client gives it, over links.

Reading order: `model` (what it holds), `session` (the roles of one session at work), `host` (who may open one),
`process` (`muster private node`). What the roles do is in `private`.
"""
