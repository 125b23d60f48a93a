"""Training: one stage of one of the pipelines that train a model together.

Reading order: `accept` (settings that make sense), `round` (who trains with whom), `mailbox` (what has come from other
places), `stage` (orders of the head, carried out), `kind` (from an assignment to a stage).
"""
