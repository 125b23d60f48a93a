"""What proofs of four tasks cost, by the provers that can be installed here: `muster zk bench`. After ZKPerf's table.

Reading order: `rows` (a cell is figures or a reason), `networks` (two small networks trained here), `by_halo2` (ezkl),
`by_snarkjs` (Groth16 and PLONK, by Node packages that are fetched into the user's cache) with `circuits` (what it
proves), `by_longfellow` (ECDSA), `published` (rows of provers that cannot be installed), and `table` (all of it).
"""
