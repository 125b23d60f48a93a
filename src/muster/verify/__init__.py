"""Exercises that show what a machine can do, and receipts of what it computed. Knows no link and no clock.

Reading order: `speed` (how fast it multiplies), `memory` (what it holds): whoever sets an exercise draws the seed, so
that nobody has computed the answer before; both ends derive everything else from it, and only answers travel. Then
`merkle` (one root over many leaves), `signing` (commitments to what crossed a boundary), `fingerprint` (a few numbers
of every token), `limits` and `judging` (from where on a difference is no rounding), `calibrating` (whence limits come).
"""
