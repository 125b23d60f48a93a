"""One step of inference on one stage: which rows run, on which pages, and which token comes next.

No socket and no clock here: the head of the ring (`engine`) returns what must be sent, a later stage (`follower`)
returns what must be sent on, and `node` carries it out.

Reading order: `stage` (what a stage must offer), `options`, `sequence` (a request while it lives in the engine),
`pages` (the budget of KV pages), `turn` and `schedule` (who runs next), `guess/` (tokens that may follow), `swap` and
`swapping` (pages that wait in host memory), `batch` (rows become tensors), `sampling` with `generator`, `race` and
`penalties` (logits become tokens), `scoring` (and scores of prompts), `accept` (what a step from the network must
satisfy), `run` (one step on one stage), `engine`, `follower`, `local_ring` (all of it in one process),
`calibration` (what packed links change).
"""
