"""What of a plan no pool runs yet. Knows no pool."""

from muster.sim.serve.offload import offloads
from muster.spec.plan import Plan

RUNS = "a pool only serves yet"


def beyond(plan: Plan) -> list[str]:
    """In words; nothing where a pool can run it."""
    if plan.trains:
        return ["training"]
    return ["stages larger than their devices"] if offloads(plan) else []
