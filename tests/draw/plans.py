"""Plans to draw on the published fleets, with forecasts and bars made up to be told apart. Knows no search."""

from dataclasses import dataclass
from itertools import pairwise

from muster.cost.named_shapes import named_shape
from muster.sim.timeline import Span, SpanKind, link_lane, stage_lane
from muster.spec.fleets import shipped_fleet
from muster.spec.forecast import LinkForecast, ServeForecast, StageForecast, TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage, TrainSettings
from muster.spec.pool import Device, LinkSpeed, Node, Pool

GPU = Device("cuda", "NVIDIA RTX 4090", 24 << 30)
Parts = tuple[Plan, Pool, ModelShape, ServeForecast | TrainForecast | None, tuple[Span, ...]]


@dataclass(frozen=True)
class Drawn:
    """What a picture is drawn from; `*drawn.parts` are the arguments of `draw_picture`."""

    plan: Plan
    pool: Pool
    shape: ModelShape
    forecast: ServeForecast | TrainForecast | None = None
    spans: tuple[Span, ...] = ()

    @property
    def parts(self) -> Parts:
        return self.plan, self.pool, self.shape, self.forecast, self.spans


def ring_of_eight() -> Drawn:
    pool, shape = shipped_fleet("deserve-8xl4"), named_shape("llama-3-70b")
    stages = tuple(Stage(node.id, 10 * index, 10 * index + 10) for index, node in enumerate(pool.nodes))
    return served(Plan(shape.name, (Pipeline(stages, ServeSettings(100, 16, 12)),)), pool, shape)


def hexgen() -> Drawn:
    """Replicas on parts of machines: several stages on one machine, tensor parallel, a standby, one left out."""
    pool, shape = shipped_fleet("hexgen-58"), named_shape("llama-2-70b")
    at = {node.name: node.id for node in pool.nodes}

    def stage(name: str, first: int, last: int, *devices: int) -> Stage:
        return Stage(at[name], first, last, tuple(range(*devices)))

    cut = [
        (stage("first-48-1", 0, 80, 0, 4),),
        (stage("first-48-1", 0, 80, 4, 8),),
        (stage("first-48-2", 0, 30, 4, 6), stage("first-48-2", 30, 60, 6, 8), stage("first-24", 60, 80, 0, 2)),
        (stage("first-24", 0, 36, 2, 6), stage("first-48-small", 36, 80, 0, 4)),
        (stage("second-1", 0, 80, 0, 8),),
        (stage("third", 0, 70, 0, 7), stage("fourth-1", 70, 80, 0, 2)),
    ]
    pipelines = tuple(Pipeline(stages, ServeSettings(100, 16, len(stages))) for stages in cut)
    return served(Plan(shape.name, pipelines, standbys=(at["fourth-2"],)), pool, shape)


def worldwide(shift: int = 0) -> Drawn:
    """64 machines in eight regions. With `shift` every pipeline starts in another one, so that all are joined."""
    pool, shape = shipped_fleet("dtfm-5"), named_shape("gpt3-xl")
    regions = list(dict.fromkeys(node.region for node in pool.nodes))
    of = {region: [node.id for node in pool.nodes if node.region == region] for region in regions}
    pipelines = tuple(
        Pipeline(
            tuple(Stage(of[regions[(j + shift * i) % 8]][i], 3 * j, 3 * j + 3) for j in range(8)), TrainSettings(6)
        )
        for i in range(8)
    )
    return trained(Plan(shape.name, pipelines), pool, shape)


def at_home(names: tuple[str, ...] = ("ada", "bob"), regions: tuple[str, ...] = ()) -> Drawn:
    """One ring over as many machines as there are names."""
    shape = named_shape("gpt2-xl")
    places = regions or ("",) * len(names)
    nodes = tuple(
        Node(f"{i:064x}", name, place, GPU) for i, (name, place) in enumerate(zip(names, places, strict=True))
    )
    ends = [shape.num_layers * i // len(nodes) for i in range(len(nodes) + 1)]
    stages = tuple(Stage(node.id, *cut) for node, cut in zip(nodes, pairwise(ends), strict=True))
    return served(
        Plan(shape.name, (Pipeline(stages, ServeSettings(100, 16, len(nodes))),)), Pool(nodes, name="home"), shape
    )


def measured() -> Drawn:
    """Ten machines in three regions, one without a name, and no link like another."""
    home = at_home(tuple(f"node-{i}" for i in range(10)), ("", "", "", "ams", "ams", "ams", "ams", "ams", "ber", "ber"))
    pairs = [(a.id, b.id) for a in home.pool.nodes for b in home.pool.nodes if a != b]
    speeds = {pair: LinkSpeed(0.0111 * (1 + i), 1.11e6 * (1 + 7 * i % 90)) for i, pair in enumerate(pairs)}
    return served(home.plan, Pool(home.pool.nodes, speeds, name="live"), home.shape)


def thousand() -> Drawn:
    """1,000 machines in ten regions, 120 rings of eight, 40 on standby."""
    nodes = tuple(Node(f"{i:064x}", f"gpu-{i}", f"region-{i % 10}", GPU) for i in range(1000))
    pipelines = tuple(
        Pipeline(tuple(Stage(nodes[8 * p + j].id, 10 * j, 10 * j + 10) for j in range(8)), ServeSettings(100, 16, 10))
        for p in range(120)
    )
    pool, shape = Pool(nodes, name="thousand"), named_shape("llama-3-70b")
    plan = Plan(shape.name, pipelines, standbys=tuple(node.id for node in nodes[960:]))
    return Drawn(plan, pool, shape, serve_forecast(plan, pool, shape))


def served(plan: Plan, pool: Pool, shape: ModelShape) -> Drawn:
    return Drawn(plan, pool, shape, serve_forecast(plan, pool, shape), ring_spans(plan, pool))


def trained(plan: Plan, pool: Pool, shape: ModelShape) -> Drawn:
    spans = training_spans(plan, pool)
    end_s = max(span.end_s for span in spans)
    said = "Activations from tokyo to seoul take longer than any stage computes."
    forecast = TrainForecast(end_s, 1e5, 0.9 * end_s, 0.1 * end_s, stages(plan, pool, shape), links(plan), said)
    return Drawn(plan, pool, shape, forecast, spans)


def serve_forecast(plan: Plan, pool: Pool, shape: ModelShape) -> ServeForecast:
    said = "Every stage waits for the slowest one, and one more machine there would add a tenth."
    return ServeForecast(1071.3, 1200, 3.21, 0.418, 56.7, 0.97, stages(plan, pool, shape), links(plan), said)


def stages(plan: Plan, pool: Pool, shape: ModelShape) -> tuple[StageForecast, ...]:
    caps = {node.id: node.device.memory_bytes for node in pool.nodes}
    return tuple(
        StageForecast(
            pipeline=number,
            node=stage.node,
            devices=stage.devices,
            first=stage.first,
            last=stage.last,
            seconds=0.1,
            share=0.5 + 0.01 * index,
            weights_bytes=shape.weight_bytes(stage.first, stage.last) // len(stage.devices),
            cache_bytes=1 << 30,
            other_bytes=1 << 28,
            cap_bytes=caps[stage.node],
        )
        for number, pipeline in enumerate(plan.pipelines)
        for index, stage in enumerate(pipeline.stages)
    )


def hops(plan: Plan) -> set[tuple[str, str]]:
    """Every direction of every link that the plan uses, worked out anew."""
    used: set[tuple[str, str]] = set()
    for pipeline in plan.pipelines:
        nodes = pipeline.nodes()
        used |= set(pairwise(nodes))
        if not plan.trains:
            used.add((nodes[-1], nodes[0]))
        else:
            used |= {(target, source) for source, target in pairwise(nodes)}
            used |= {pair for other in plan.pipelines for pair in zip(nodes, other.nodes(), strict=True)}
    return {(source, target) for source, target in used if source != target}


def links(plan: Plan) -> tuple[LinkForecast, ...]:
    return tuple(LinkForecast(*pair, 1e6, (index % 10) / 10) for index, pair in enumerate(sorted(hops(plan))))


def ring_spans(plan: Plan, pool: Pool, rounds: int = 12) -> tuple[Span, ...]:
    names = {node.id: node.name for node in pool.nodes}
    counts = {node.id: node.device_count for node in pool.nodes}
    spans: list[Span] = []
    for pipeline in plan.pipelines:
        free = [0.0] * len(pipeline.stages)
        ready = [0.0] * pipeline.work.num_microbatches
        for step in range(rounds * pipeline.work.num_microbatches):
            number = step % pipeline.work.num_microbatches
            for index, stage in enumerate(pipeline.stages):
                start = max(ready[number], free[index])
                kind: SpanKind = "prefill" if step % 11 == 5 else "decode"
                free[index] = end = start + (0.25 if kind == "prefill" else 0.1)
                following = pipeline.stages[(index + 1) % len(pipeline.stages)].node
                lane = link_lane(names[stage.node], names[following])
                here = stage_lane(names[stage.node], stage.devices, counts[stage.node])
                spans.append(Span(here, start, end, kind, f"microbatch {number}"))
                spans.append(Span(lane, end, end + 0.06, "send", f"microbatch {number}"))
                ready[number] = end + 0.06
    return tuple(spans)


def training_spans(plan: Plan, pool: Pool) -> tuple[Span, ...]:
    """All forward, then all backward, then an exchange."""
    names = {node.id: node.name for node in pool.nodes}
    spans: list[Span] = []
    for pipeline in plan.pipelines:
        depth, count = len(pipeline.stages), pipeline.work.num_microbatches
        turn_s, end_s = 0.15 * (depth + count), 0.45 * (depth + count)
        for index, stage in enumerate(pipeline.stages):
            name, following = names[stage.node], names[pipeline.stages[(index + 1) % depth].node]
            for number in range(count):
                start, back = 0.15 * (index + number), turn_s + 0.3 * (depth - 1 - index + number)
                spans.append(Span(name, start, start + 0.14, "forward", f"microbatch {number}"))
                spans.append(Span(name, back, back + 0.28, "backward", f"microbatch {number}"))
                spans.append(Span(link_lane(name, following), start + 0.14, start + 0.2, "send"))
            spans.append(Span(name, end_s, end_s + 0.4, "exchange"))
    return tuple(spans)
