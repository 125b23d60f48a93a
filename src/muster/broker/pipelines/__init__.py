"""Who holds which layers: pipelines on their way from plan to service and beyond.

Reading order: `placement` (one pipeline on its way from plan to service), `placing` (from pool to placements), `pauses`
(how long one is left alone), `slowness` (who computes slower than forecast), `searching` (looks for better plans beside
the event loop).
"""
