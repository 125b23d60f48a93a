"""`muster` whose training pools are laid out as they are told, instead of by the planner: for comparisons.

python -m benchmarks.layout_head '[["w0", "w1"], ["w2", "w3"]]' train RUN --pool 4     a list of pipelines, by stages
"""

import json
import sys
from collections.abc import Sequence

import numpy as np

from muster.broker.pipelines import train
from muster.cli.main import main
from muster.cost.pace import Constants
from muster.errors import PoolUnavailable
from muster.plan.train.finish import finished_plan
from muster.plan.train.fleet import Fleet
from muster.plan.train.price import Layout, Prices
from muster.plan.train.quick import WantedLayout
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import TrainWorkload


def lay_out(layout: Sequence[Sequence[str]]) -> None:
    """From now on every training pool of this process is laid out so, one layer a stage, whatever its links."""

    def told(
        shape: ModelShape, pool: Pool, workload: TrainWorkload, constants: Constants, wanted: WantedLayout
    ) -> Plan:
        del wanted
        names = {node.name: index for index, node in enumerate(pool.nodes)}
        row = next((row for row in layout if names.keys() >= set(row)), None)
        if row is None:
            raise PoolUnavailable("No pipeline of the layout is whole.")
        prices = Prices(Fleet(shape, pool, workload, constants))
        priced = prices.priced(Layout(np.array([[names[name] for name in row]]), tuple(range(len(row) + 1))))
        if priced is None:
            raise PoolUnavailable("The layout does not fit.")
        return finished_plan(priced, prices, (), lambda plan: 0.0)

    train.quick_training_plan = told


if __name__ == "__main__":
    layout = json.loads(sys.argv.pop(1))
    if layout:
        lay_out(layout)
    main()
