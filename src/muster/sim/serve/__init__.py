"""A pool that serves: its forecast in closed form, and its simulation event by event.

Read in this order:

    stage_time.py   seconds of one step on one stage; what a step carries
    ring.py         one pipeline on its machines: stages, hops, pages
    loads.py        what the steps of a ring carry, and how often
    rounds.py       from one step to the next, where steps are of several lengths
    steady_state.py a ring in a steady state: period, tokens per second
    waiting.py      how long a request waits
    dispatch.py     to which pipeline a request goes, and how many each then has
    bottleneck.py   what limits it, in words
    forecast.py     the forecast in closed form
    arrivals.py     when requests come
    scheduler.py    who runs in the next step: the engine's rules on counts
    pipeline_run.py one pipeline at work in simulated time
    slots.py        one pipeline of the plan through all its repairs
    service.py      requests, pipelines and faults together
    simulate.py     the simulation
    result.py       what a simulated pool did
"""
