"""The nouns: frozen records that every other folder speaks in. They never do I/O.

Reading order: `model_shape`, `pool`, `plan`, `sampling`, `request`, `scenario`.
"""
