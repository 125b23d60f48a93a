"""`muster` whose pipelines keep exactly so many steps in flight, instead of learning how many: for comparisons.

python -m benchmarks.ring_head STEPS serve MODEL ...        0 learns, as always
"""

import sys
from dataclasses import replace
from typing import Any

from muster.broker.pipelines.placement import Placement
from muster.cli.main import main

_of = Placement.of


def fix(steps: int) -> None:
    """From now on every placement in this process says so."""

    def of(id: Any, model: Any, epoch: int, plan: Any, pool: Any, options: Any) -> Placement:
        one = plan.only_pipeline.with_work(num_microbatches=steps, max_microbatches=steps)
        return _of(id, model, epoch, replace(plan, pipelines=(one,)), pool, options)

    Placement.of = of  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    steps = int(sys.argv.pop(1))
    if steps:
        fix(steps)
    main()
