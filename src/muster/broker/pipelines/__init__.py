"""Who holds which layers: pipelines on their way from plan to service and beyond.

Reading order: `job` (what is to be done, and who plans it), `serve` (how a pipeline that serves is planned),
`placement` (one placement of a pipeline), `allocation` (machines among all pipelines), `entrusted` (how
much machines on trial get), `settling` (how long the first placement waits), `lifecycle` (one pipeline from plan to
placement to the next), `every` (all of them), `codec_checks` (what the codecs on links may change), `pauses` (how long
one is left alone), `slowness` (who computes slower than forecast), `flow` (where steps get stuck), `searching` (looks
for better plans beside the event loop).
"""
