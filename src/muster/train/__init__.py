"""One optimizer step on one stage: microbatches forward and back, gradients exchanged, weights changed.

No socket and no clock here: a stage's step (`step`) yields what is to be sent and what is waited for, and whoever runs
it carries that out. Gradients cross machines as messages; there is no autograd graph but each stage's own.

Reading order: `instructions` (what a step may ask for), `passes` (a stage's microbatches forward and back), `rates`
(the learning rate by step), `optimizer`, `exchange` (gradients of weights that several places hold, and sums over all),
`buckets` and `replicas` (how pipelines agree with less on the wire), `step` (the sentence), `score` (held-out texts),
`links` (how hidden states are packed on the way), `local` (all places in one process).

Data: `documents` (files become token ids), `corpus` (token ids become the texts of a step). Kept: `checkpoint` (on
disk, whole or not at all), `metrics` (a line for each step). `run`: a run from its file to a trained model.
"""
