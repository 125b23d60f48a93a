"""Everything one machine may say to another. Knows nothing of how the bytes travel.

Four channels run between two machines, so that a heartbeat never waits behind weights:

    control   node <-> broker: `membership` (join, lease), `placement` (hold this stage, let it go)
    data      session <-> first stage, stage <-> stage: `generate` (requests, steps, tokens)
    data      `private` (rows of a step in which nobody gets all tokens)
    both      `receipts` (what crossed a boundary, signed)
    both      `calibrate` (what the codecs on a ring's links change, before it serves)
    bulk      `transfer` (weights, probes, frames passed on by the head)
    proof     `proof` (a machine shows the head what it claims)

Reading order: `base`, then those in any order, then `every` (the union of all).

A message is a tagged msgpack map (`type` names it). A message that carries a tensor or a blob has it as the frame's
payload, described by a `TensorHeader` or by a length inside the message. Every receiver checks sizes, ids and
shapes before it acts; nothing here is trusted.
"""
