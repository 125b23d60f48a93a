"""What a plan will do on a pool: in closed form, and event by event. Deterministic; no torch, no clock of its own.

Read in this order:

    stage_pace.py   seconds of one step on one stage; what a step carries
    ring.py         one serving pipeline on its machines: stages, hops, pages
    rhythm.py       a ring in a steady state: period, tokens per second, waiting
    relay.py        training: one pipeline on its machines, and the exchange of gradients
    relay_rhythm.py how long a training step takes
    train_steady.py the forecast of a training step, put together
    steady.py       the forecasts in closed form, for serving and for training
    limits.py       the bottleneck in words
    timeline.py     spans of a Gantt chart
    faults.py       what can go wrong, and when
    arrivals.py     when requests come
    events.py       a clock that jumps from event to event
    head.py         who runs in the next step: the engine's rules on counts
    line.py         one ring at work in simulated time
    places.py       which pipeline is up, on which machines
    service.py      requests, pipelines and faults together
    serve_run.py    what a simulated pool did
    serving.py      a serving pool, event by event
    schedules.py    in which order a stage computes its microbatches
    training_step.py  one optimizer step
    churn.py        which pipelines train while machines come and go
    training.py     training, event by event
"""
