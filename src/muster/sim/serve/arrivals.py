"""When requests come and how long they are: at random, all at once, or as recorded. Knows nothing of servers."""

from collections.abc import Iterable
from dataclasses import dataclass

from numpy.random import Generator

from muster.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    prompt_tokens: int
    output_tokens: int


def poisson(
    rate: float, count: int, prompt_tokens: int, output_tokens: int, rng: Generator, spread: float = 0.0
) -> tuple[Arrival, ...]:
    """`count` requests at `rate` a second, with lengths uniform within `spread` of the mean (0.5: half to 1.5)."""
    if not rate > 0:
        raise InvalidRequest(f"Requests cannot arrive {rate} times a second; give a rate above 0.", "rate")
    times = rng.exponential(1 / rate, count).cumsum()
    return tuple(
        Arrival(float(at_s), prompt, output)
        for at_s, (prompt, output) in zip(
            times, _lengths(count, prompt_tokens, output_tokens, rng, spread), strict=True
        )
    )


def at_once(
    count: int, prompt_tokens: int, output_tokens: int, rng: Generator, spread: float = 0.0
) -> tuple[Arrival, ...]:
    """Offline work: everything is there from the start."""
    return tuple(
        Arrival(0.0, prompt, output) for prompt, output in _lengths(count, prompt_tokens, output_tokens, rng, spread)
    )


def trace(rows: Iterable[tuple[float, int, int]]) -> tuple[Arrival, ...]:
    """(seconds, prompt tokens, output tokens) as recorded, in any order."""
    arrivals = tuple(sorted((Arrival(*row) for row in rows), key=lambda arrival: arrival.at_s))
    for arrival in arrivals:
        if arrival.at_s < 0 or arrival.prompt_tokens < 1 or arrival.output_tokens < 1:
            raise InvalidRequest(
                f"A request at {arrival.at_s} s with {arrival.prompt_tokens} prompt and {arrival.output_tokens} output "
                "tokens cannot be; times are from 0 on and lengths at least 1.",
                "arrivals",
            )
    return arrivals


def _lengths(
    count: int, prompt_tokens: int, output_tokens: int, rng: Generator, spread: float
) -> list[tuple[int, int]]:
    if not 0 <= spread < 1:
        raise InvalidRequest(f"Lengths cannot spread by {spread} of their mean; give 0 to below 1.", "spread")
    if spread == 0:
        return [(prompt_tokens, output_tokens)] * count
    drawn = rng.uniform(1 - spread, 1 + spread, (count, 2))
    return [
        (max(1, round(prompt_tokens * float(first))), max(1, round(output_tokens * float(second))))
        for first, second in drawn
    ]
