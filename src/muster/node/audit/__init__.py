"""Looking at numbers that other machines have signed: the model is computed again, and limits say what is rounding.

Reading order: `recomputing` (a request through the layers once more), `looking` (receipts held against that),
`calibrating` (limits of a model, from honest runs on this machine), `kept` (where they are kept).
"""
