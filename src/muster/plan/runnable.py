"""What of a plan no pool runs yet: today a pool serves pipelines of single devices. Knows no pool."""

from muster.spec.plan import Plan

RUNS = "a pool serves pipelines of single devices yet"


def beyond(plan: Plan) -> list[str]:
    """In words; nothing where a pool can run it."""
    if plan.trains:
        return ["training"]
    stages = [stage for pipeline in plan.pipelines for stage in pipeline.stages]
    parallel = "tensor parallelism" if any(len(stage.devices) > 1 for stage in stages) else ""
    devices = "several devices of a machine" if any(stage.devices > (0,) for stage in stages) and not parallel else ""
    return [what for what in (parallel, devices) if what]
