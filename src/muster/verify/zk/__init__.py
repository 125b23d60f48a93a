"""Zero-knowledge proofs: what they cost, and one of the operator on which a dispute ends, where it can pay.

Reading order: `child` (a prover runs in a process of its own, with limits), `fixed` (numbers as integers, and by how
much they err), `network` (small networks as files that provers read), `halo2` (the steps of ezkl) and `halo2_steps`
(its process), `tune` (columns and digits that make it fast); then `transcript` and `tile` (a few rows of the disputed
operator), and `evidence` (the folder that convinces a third party). `bench/` has
the table of what proofs of four tasks cost.
"""
