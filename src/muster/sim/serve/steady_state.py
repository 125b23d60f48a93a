"""A ring in a steady state: how often it steps, how long a request takes. Closed forms; knows no events.

R sequences share a ring that keeps up to N steps in flight, so a step carries B = R / min(N, R) of them. Each request
of n output tokens is one prefill and n - 1 decodes, so of the B rows a share 1/n are prompts. Between two tokens of its
own a request meets the prompts of the R - 1 others only.

    period = max(T of the slowest stage, the longest time on a wire, (sum of T + hops) / min(N, R))
    tokens per second = B / period

DeServe, arXiv 2501.14784, section 4, with T the mean over steps with and without a prompt chunk, and longer where a
ring of few stages waits for the long ones among its steps (`rounds.py`).

Where requests come at random, prompts do as well (Poisson), and those after one's own are more than the mean: they came
while it was computed. With F from its arrival to its first token, a share f of the steps with prompts, and a share r of
the time that is due to these, there are so many more of them in the n - 1 steps that follow:

    (1 - f) x (rate x F - prompts in a mean step) / (1 - r)             as far as they come before the last token
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, sqrt

from muster.sim.serve.loads import Loads, chunks_of, prompt_load, step_loads
from muster.sim.serve.ring import Ring, mean_pages
from muster.sim.serve.rounds import StepKind, period_s
from muster.sim.serve.stage_time import StepLoad
from muster.spec.workload import ServeWorkload

_FIFTHS = (-1.28, -0.52, 0.0, 0.52, 1.28)
"""The middles of five equal parts of a normal distribution, in deviations from its mean."""
_BUSIEST = 0.9


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Of one ring with `sequences` in it, on the mean."""

    sequences: float
    in_flight: float
    loads: Loads
    stage_s: tuple[float, ...]
    """Of one step."""
    wire_s: tuple[float, ...]
    period_s: float
    """From one step to the next."""
    met_period_s: float
    """The same among steps without one of the sequences' prompts: as whoever comes at random meets it."""
    others_period_s: float
    """What lies between the tokens of that one, with the prompts that came while it was computed."""
    first_s: float
    """From a request's arrival to its first token, if it has not to wait for a place."""
    requests_per_s: float
    """Finished, as long as others take their place."""

    @property
    def token_s(self) -> float:
        """Between two tokens of one request: once around with everybody else."""
        return self.in_flight * self.others_period_s

    def service_s(self, output_tokens: int) -> float:
        """To its last token."""
        return self.first_s + (output_tokens - 1) * self.token_s


def steady_state(ring: Ring, workload: ServeWorkload, sequences: float, at_random: bool = False) -> SteadyState:
    """With always as many, one for each that ends; or with so many on the mean that come `at_random`."""
    in_flight = min(float(ring.in_flight), max(1.0, sequences))
    steps = float(workload.output_tokens)
    state = _Steps(ring, workload, sequences, in_flight, steps, at_random).state()
    if not at_random:
        return state
    # Of a request's time, its first token takes more than a step.
    steps = state.service_s(workload.output_tokens) / (state.in_flight * state.met_period_s)
    own = workload.output_tokens - 1 + chunks_of(workload, ring.rules.prefill_tokens)
    in_flight = _in_flight(ring.in_flight, sequences * min(1.0, own / steps))
    return _Steps(ring, workload, sequences, in_flight, steps, True).state()


def _in_flight(places: int, rows: float) -> float:
    """Steps under way, on the mean: each takes its part of the rows that are there, in whole numbers."""
    if places == 1:
        return 1.0
    counts = [max(1, round(rows + often * sqrt(rows))) for often in _FIFTHS]
    steps = [ceil(count / ceil(count / places)) for count in counts]
    return min(max(1.0, rows), sum(steps) / len(steps))


@dataclass
class _Steps:
    """`sequences` that each take as long as `steps` rounds."""

    ring: Ring
    workload: ServeWorkload
    sequences: float
    in_flight: float
    steps: float
    at_random: bool

    def __post_init__(self) -> None:
        ring, workload, prefill_tokens = self.ring, self.workload, self.ring.rules.prefill_tokens
        self.sequences = max(1.0, self.sequences)
        each = mean_pages(workload.prompt_tokens, workload.output_tokens, ring.pipeline.serve.page_size) + 1
        self.swap_s = ring.swapping_s(self.sequences * each - 1)
        self.run = chunks_of(workload, prefill_tokens)
        # A step takes only so many prompt tokens, and no more requests can run than are let in.
        most = prefill_tokens / workload.prompt_tokens
        self.prompts = min(self.sequences / self.in_flight / self.steps, most)
        self.others = 1 - 1 / self.sequences
        self.loads = step_loads(workload, self.prompts, prefill_tokens, at_random=self.at_random)
        self.kinds = self.kinds_of(self.loads)
        # At random, of the decodes that a request meets one is its own, once around.
        met = self.prompts * self.others * (workload.output_tokens - 1) + 1 / self.in_flight
        self.decodes = met if self.at_random else self.loads[0][1].decodes
        self.quiet = self.kind(1.0, replace(self.loads[0][1], decodes=self.decodes).without_prompts())

    def kind(self, share: float, load: StepLoad) -> StepKind:
        stage_s = [max(self.swap_s, pace.seconds(load)) for pace in self.ring.paces]
        return StepKind(share, stage_s, [hop.wire_s(load) for hop in self.ring.hops])

    def kinds_of(self, loads: Loads) -> list[StepKind]:
        kinds = [self.kind(share, load) for share, load in loads]
        return kinds if self.run == 1 or len(kinds) < 3 else [kinds[0], _merged(kinds[1:])]

    def period_s(self, kinds: Sequence[StepKind]) -> float:
        return period_s(kinds, self.in_flight, self.ring.hops_s, self.run)

    def state(self) -> SteadyState:
        mean, others = _merged(self.kinds), self.others
        met = self._met(self.prompts * others)
        seen, period = _merged(met), self.period_s(self.kinds)
        met_period_s = self.period_s(met)
        more = self.workload.output_tokens - 1
        after = self._after_own(seen, met_period_s) if self.at_random and more and others else met
        # A token that comes back is handed out when the head is done with the step that it computes next. Whoever is
        # alone gets the last one at once, because nothing more is computed.
        hand_s = seen.stage_s[0] if self.ring.hops else 0.0
        sooner_s = (1 - others) * hand_s / more if more else 0.0
        turn_s = self._turn_s(met, met_period_s, period) + (hand_s if more else others * hand_s)
        around_s = sum(mean.stage_s) + sum(mean.wire_s)
        return SteadyState(
            sequences=self.sequences,
            in_flight=self.in_flight,
            loads=self.loads,
            stage_s=tuple(mean.stage_s),
            wire_s=tuple(mean.wire_s),
            period_s=period,
            met_period_s=met_period_s,
            others_period_s=self.period_s(after) - sooner_s / self.in_flight,
            first_s=turn_s + self.in_flight * period + self._prefill_excess(around_s),
            requests_per_s=self.prompts / period,
        )

    def _met(self, prompts: float) -> list[StepKind]:
        """The steps without one's own prompt, if others have so many in each."""
        if self.at_random:
            return self.kinds_of(self._loads(prompts)) if prompts else [self.quiet]
        whole = sum(kind.share for kind in self.kinds)
        scaled = [kind._replace(share=kind.share * self.others / whole) for kind in self.kinds]
        return [self.quiet._replace(share=1 - self.others), *scaled]

    def _loads(self, prompts: float) -> Loads:
        return step_loads(self.workload, prompts, self.ring.rules.prefill_tokens, self.decodes, at_random=True)

    def _turn_s(self, met: Sequence[StepKind], met_period_s: float, period: float) -> float:
        """Until a newcomer is in a step, if prompts that came before are not counted; but of one under way, the rest.

        Where all places in flight are taken, it waits for a step to return, and half of the time for one more.
        """
        if not self.at_random or self.ring.hops:
            turn_s = min(1.0, max(0.0, self.sequences / self.in_flight - 1)) * period
        else:
            square = float(sum(kind.share * kind.stage_s[0] ** 2 for kind in met))
            turn_s = (1 - exp(1 - self.sequences)) * square / 2 / met_period_s
        if self.at_random and self.run > 1:
            follows_s = steps_of(self.ring, self._prompt_load())[1]
            busy = min(1.0, self.prompts * self.others * self.run * follows_s / met_period_s)
            turn_s += busy * (self.run - 1) * follows_s / 2
        return turn_s

    def _after_own(self, seen: StepKind, met_period_s: float) -> list[StepKind]:
        """Steps after one's own prompt: those that came while that was computed come next."""
        slowest = max(range(len(seen.stage_s)), key=lambda index: seen.stage_s[index])
        prompts, steps = self.prompts * self.others, (self.workload.output_tokens - 1) * self.in_flight
        due = min(_BUSIEST, max(0.0, 1 - self.quiet.stage_s[slowest] / met_period_s))
        came_s, quiet_share, lasts = self.run * self._own().stage_s[slowest], 1.0, self.run / (1 - due)
        if 2 * self.workload.prompt_tokens > self.ring.rules.prefill_tokens:
            # One prompt at a time: whoever came while one's own had to wait comes after it as well.
            busy = min(_BUSIEST, prompts * came_s / met_period_s)
            came_s += busy * came_s / 2 / (1 - busy)
            quiet_share, lasts = max(0.0, 1 - prompts * self.run), self.run / (1 - busy) ** 1.75
        longer = quiet_share * max(0.0, came_s / met_period_s - 1) / (1 - due) / steps * (1 - exp(-steps / lasts))
        prefill_tokens = self.ring.rules.prefill_tokens
        prompts = min(prompts * (1 + longer), prefill_tokens / self.workload.prompt_tokens)
        return self._met(prompts)

    def _own(self) -> StepKind:
        """The step of one's own prompt, with those of others that came at the same time; or one of its chunks."""
        if self.run > 1:
            return self.kind(1.0, self._prompt_load())
        one, most = (0, self.workload.prompt_tokens), self.ring.rules.prefill_tokens // self.workload.prompt_tokens
        prompts = self.prompts * self.others
        met = self._loads(prompts) if prompts else ((1.0, StepLoad(self.decodes)),)
        counts = [(share, min(most, len(load.chunks) + 1)) for share, load in met]
        context = self.loads[0][1].context
        loads = [
            (share, StepLoad(self.decodes, context, (one,) * count, self.decodes + count)) for share, count in counts
        ]
        return _merged([self.kind(*load) for load in loads])

    def _prompt_load(self) -> StepLoad:
        return prompt_load(self.workload, self.decodes, self.ring.rules.prefill_tokens)

    def _prefill_excess(self, round_s: float) -> float:
        """How much longer a prompt takes to go around than a mean step, its chunks one after the other.

        The next chunk follows as soon as the slowest stage or wire is done with this one, if a step may be in flight.
        """
        if self.at_random and self.run == 1:
            own = self._own()
            return float(sum(own.stage_s) + sum(own.wire_s)) - round_s
        around_s, follows_s = steps_of(self.ring, self._prompt_load())
        return max(0.0, around_s - round_s) + (self.run - 1) * follows_s


def _merged(kinds: Sequence[StepKind]) -> StepKind:
    """The mean step of these."""
    total = float(sum(kind.share for kind in kinds))

    def means(columns: Callable[[StepKind], Sequence[float]]) -> list[float]:
        weighted = [[kind.share / total * one for one in columns(kind)] for kind in kinds]
        return [sum(one) for one in zip(*weighted, strict=True)]

    return StepKind(total, means(lambda kind: kind.stage_s), means(lambda kind: kind.wire_s))


def steps_of(ring: Ring, load: StepLoad) -> tuple[float, float]:
    """(once around without links' latency, from one such step to the next)."""
    seconds = [pace.seconds(load) for pace in ring.paces]
    wires = [hop.wire_s(load) for hop in ring.hops]
    around_s = sum(seconds) + sum(wires)
    return around_s, max(*seconds, *wires, (around_s + ring.hops_s) / ring.in_flight)
