"""A pool that trains: the forecast of one optimizer step in closed form, and steps event by event.

Read in this order:

    pipeline_costs.py  one pipeline on its machines, and the exchange of gradients
    pipeline_time.py   how long a pipeline needs for its microbatches
    forecast.py        the forecast in closed form
    schedules.py       in which order a stage computes its microbatches
    step.py            one optimizer step, event by event
    churn.py           which pipelines train while machines come and go
    simulate.py        the simulation
"""
