"""Exercises that show what a machine can do, and cheap checks of the answers. Knows no machine, no link and no clock.

Reading order: `speed` (how fast it multiplies), `memory` (what it holds). Whoever sets an exercise draws the seed, so
that nobody has computed the answer before; both ends derive everything else from it, and only answers travel.
"""
