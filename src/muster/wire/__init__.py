"""Messages and frames between machines, sans-IO: bytes in, messages out. No socket, no clock, no torch.

Reading order: `messages` (what is said), `frame` (how it is cut into bytes), `tensor` (a header for a raw buffer),
`ticket` (the one line that lets a machine in).
"""
