"""The stages of a plan as rows of a table, one each, or for a large plan one for each kind of pipeline. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from muster.cli.figures import share
from muster.plan.words import bytes_in_words, layers_in_words
from muster.spec.devices import find_device
from muster.spec.forecast import StageForecast
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Node, Pool

MAX_STAGES = 24
"""A larger plan is shown pipeline by pipeline."""
MAX_ROWS = 32
"""Of a table; `--json` has everything."""
RIGHT = ("pipeline", "layers", "memory of each", "free", "reserve", "busy", "stages", "least free", "busiest")

Rows = tuple[list[str], list[list[str]]]
"""Names of columns, cells."""


def stage_rows(pool: Pool, plan: Plan, forecasts: Sequence[StageForecast]) -> Rows:
    """`forecasts` are of the plan's stages."""
    nodes = {node.id: node for node in pool.nodes}
    of = {(stage.pipeline, stage.first): stage for stage in forecasts}
    if sum(len(pipeline.stages) for pipeline in plan.pipelines) > MAX_STAGES:
        return _by_pipeline(nodes, plan, of)
    columns = ["machine", "device", "layers", "memory of each", "free", "reserve", "busy"]
    rows = []
    for index, pipeline in enumerate(plan.pipelines):
        for stage in pipeline.stages:
            node = nodes[stage.node]
            row = [node.name, device(node, len(stage.devices)), layers_in_words(stage.first, stage.last)]
            rows.append(row + _foreseen(of[index, stage.first], node))
    if len(plan.pipelines) == 1:
        return columns, rows
    numbers = [str(index) for index, pipeline in enumerate(plan.pipelines, start=1) for _ in pipeline.stages]
    return ["pipeline", *columns], [[number, *row] for number, row in zip(numbers, rows, strict=True)]


def device(node: Node, count: int = 1) -> str:
    """`rtx-4090`, `4×a6000`."""
    facts = find_device(node.device.name)
    name = facts.name if facts else node.device.name or node.device.kind
    return f"{count}×{name}" if count > 1 else name


def _foreseen(stage: StageForecast, node: Node) -> list[str]:
    used, cap = bytes_in_words(stage.used_bytes), bytes_in_words(stage.cap_bytes)
    number, _, unit = used.partition(" ")
    memory = f"{number if cap.endswith(unit) else used} of {cap}"
    return [memory, bytes_in_words(max(0, stage.headroom_bytes)), _reserve(node), share(stage.share)]


def _reserve(node: Node) -> str:
    """Of each device, what is not lent: left for drivers and for other programs."""
    facts = find_device(node.device.name)
    return bytes_in_words(max(0, facts.memory_bytes - node.device.memory_bytes)) if facts else "unknown"


def _by_pipeline(nodes: Mapping[str, Node], plan: Plan, of: Mapping[tuple[int, int], StageForecast]) -> Rows:
    """Pipelines that look alike share a row."""
    columns = ["pipelines", "stages", "through", "layers", "least free", "busiest"]
    kinds = {device(nodes[stage.node], len(stage.devices)) for one in plan.pipelines for stage in one.stages}
    looks = [(_route(nodes, one, len(kinds) > 1), _layer_counts(one)) for one in plan.pipelines]
    alike: dict[tuple[str, str], list[int]] = {}
    for index, look in enumerate(looks):
        alike.setdefault(look, []).append(index)
    rows = []
    for (route, counts), members in alike.items():
        stages = [stage for (pipeline, _), stage in of.items() if pipeline in members]
        free = bytes_in_words(max(0, min(stage.headroom_bytes for stage in stages)))
        busiest = share(max(stage.share for stage in stages))
        rows.append([_spans(members), str(len(plan.pipelines[members[0]].stages)), route, counts, free, busiest])
    return columns, rows


def _route(nodes: Mapping[str, Node], pipeline: Pipeline, mixed: bool) -> str:
    """`instance-0 ×4 → single ×4`: how many stages where, in order; in a mixed plan also on what: `a5000 third ×2`."""
    runs = groupby(_place(nodes[stage.node], len(stage.devices), mixed) for stage in pipeline.stages)
    counted = [(place, len(list(run))) for place, run in runs]
    return " → ".join(f"{place} ×{count}" if count > 1 else place for place, count in counted)


def _place(node: Node, devices: int, mixed: bool) -> str:
    what = device(node, devices)
    return f"{what} {node.region}".strip() if mixed else node.region or what


def _layer_counts(pipeline: Pipeline) -> str:
    counts = sorted({stage.num_layers for stage in pipeline.stages})
    return f"{counts[0]} each" if len(counts) == 1 else f"{counts[0]}–{counts[-1]} each"


def _spans(indices: Sequence[int]) -> str:
    """`1–4, 7`, counted from 1."""
    return ", ".join(_runs(indices))


def _runs(indices: Sequence[int]) -> Iterator[str]:
    for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        members = [index + 1 for _, index in run]
        yield str(members[0]) if len(members) == 1 else f"{members[0]}–{members[-1]}"
