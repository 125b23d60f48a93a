"""The head: the one process that clients and workers connect to. Puts broker, sessions and HTTP door together, once.

Reading order: `options` (what `muster serve` was asked), `early` (what is told before anything slow is imported),
`data_directory` (the head's files, and how another command finds a running head), `model` (what the head knows of the
model), `pins` (layers that stay on a machine), `backend` (the API's view of the pool), `compose` (how the parts are
wired; tests run the same), `local_worker` (this machine's own share of the work), `watch` (what is told of the pool),
`run` (the process, from start to interrupt). `private` is no head: the door of `muster private serve`.
"""
