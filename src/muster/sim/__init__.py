"""What a plan will do on a pool: in closed form, and event by event. Deterministic; no torch, no clock of its own.

Read in this order:

    events.py       a clock that jumps from event to event
    faults.py       what can go wrong, and when
    network.py      the wires between machines
    standbys.py     who steps in where a pipeline lost a machine
    timeline.py     spans of a Gantt chart
    serve/          a pool that serves
    train/          a pool that trains
    graph.py        pieces of an operator graph that train
"""
