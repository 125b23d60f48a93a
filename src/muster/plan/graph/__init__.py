"""Operator graphs on scattered machines: OP-Fence. No torch, no clock.

Reading order: `coarse` (fewer operators that cut as well), `placement` (which operator runs where, what a step of it
costs), `communities` (machines with fast links between them, in an order), `fence` (contiguous pieces of the graph on
that order), `baselines` (what a scheduler that looks at no link would do, to compare with), `executed` (the step that
machines would carry out, for the simulator).
"""
