"""Disputes that end at one operator, which anybody can run again and hold against what it may honestly give.

Reading order: `program` (a pass as a list of operators), `trace` (how it is written down), `tensors` and `execute` (how
any part of it is run again), `rounding`, `bounds` and `interval` (which results an operator may honestly have);
`statements` (what two sides sign who search for where they part), `outcome` and `game` (the rounds, as the referee
leads them), `sides` (what they say of a real pass, and the referee's numbers), `transcript` (all of it as one file).
"""
