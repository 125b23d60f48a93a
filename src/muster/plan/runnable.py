"""What of a plan that comes as a file no pool runs yet. Knows no pool."""

from muster.spec.plan import Plan

RUNS = "a pool plans such work by itself and takes none of it from a file yet"


def beyond(plan: Plan) -> list[str]:
    """In words; nothing where a pool can run it."""
    if plan.trains:
        return ["training"]
    return ["stages larger than their devices"] if plan.offloads else []
