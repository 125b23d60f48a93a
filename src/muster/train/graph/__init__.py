"""Remote automatic differentiation: pieces of any network on machines of different frameworks train as one.

    values ──▶ piece 0 ──▶ piece 1 ──▶ piece 2 (the loss)         one message for each value and microbatch
           ◀── gradients ◀───────── gradients ◀──                 summed where a value went to several pieces

Reading order: `messages` (what machines tell each other), `side` (one piece on one plane: messages in, messages out),
`network` (all pieces in one process: for tests, and for whoever has no pool).
"""
