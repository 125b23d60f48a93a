"""From a scored layout to a `Plan` with names of machines and numbers of devices. Decides nothing."""

from collections import Counter
from collections.abc import Sequence

from muster.plan.serve.cuts import Item
from muster.plan.serve.fleet import Fleet
from muster.plan.serve.layout import Layout, Slice, Team
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.replica import Replica
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage


def realise(
    fleet: Fleet,
    shape: ModelShape,
    options: ServeOptions,
    layout: Layout,
    replicas: Sequence[Replica | None],
    used: Sequence[bool],
) -> Plan:
    """Teams that do not serve are standbys, as far as all of their machine is idle."""
    taken: Counter[int] = Counter()
    pipelines = []
    serving = [(members, one) for members, one, serves in zip(layout, replicas, used, strict=True) if one and serves]
    for members, replica in sorted(serving, key=lambda pair: (-pair[1].value, pair[0])):
        stages = _stages(fleet, members, replica, taken)
        setting = replica.setting
        pipelines.append(
            Pipeline(
                stages,
                ServeSettings(
                    num_pages=setting.num_pages,
                    page_size=options.page_size,
                    num_microbatches=setting.microbatches,
                    batch=setting.whole_batch,
                    swap_pages=setting.swap_pages,
                ),
            )
        )
    busy = {stage.node for pipeline in pipelines for stage in pipeline.stages}
    standbys = tuple(node.id for node in fleet.nodes if node.id not in busy)
    slowest_s = max((one.setting.period_s for _, one in serving), default=0.0)
    return Plan(shape.name, tuple(pipelines), standbys, step_seconds=slowest_s)


def _stages(fleet: Fleet, members: Team, replica: Replica, taken: Counter[int]) -> tuple[Stage, ...]:
    owners = _owners(fleet, members, replica.order)
    starts = {one.node: taken[one.node] for one in members}
    for one in members:
        taken[one.node] += one.devices
    stages = []
    for cut in replica.cuts:
        node = owners[cut.item].node
        devices = tuple(range(starts[node], starts[node] + cut.degree))
        starts[node] += cut.degree
        stages.append(Stage(fleet.nodes[node].id, cut.first, cut.last, devices))
    return tuple(stages)


def _owners(fleet: Fleet, members: Team, order: Sequence[Item]) -> list[Slice]:
    """Which slice stands for each item of the order."""
    left: dict[Item, list[Slice]] = {}
    for one in sorted(members, reverse=True):
        left.setdefault(Item(fleet.class_of[one.node], one.devices), []).append(one)
    return [left[item].pop() for item in order]
