"""In which order a token visits machines. Knows no layers."""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, islice, pairwise, permutations

from muster.cost.layer_ranges import Floats
from muster.plan.serve.cuts import Group, Item
from muster.plan.serve.job import Job

_CLASSES_IN_EVERY_ORDER = 3
_MAX_ORDERS = 200


def tours(job: Job, group: Group) -> list[tuple[Item, ...]]:
    """Machines of a class follow each other; a few classes in every order, more from near to near, forth and back."""
    classes = sorted({item.of_class for item in group})
    latency_s = job.fleet.latency_s
    if len(classes) <= _CLASSES_IN_EVERY_ORDER:
        orders = list(permutations(classes))
    else:
        forth = [_nearest(classes, start, latency_s) for start in (classes[0], classes[-1])]
        orders = [*forth, *(one[::-1] for one in forth)]
    return [tuple(item for of_class in one for item in group if item.of_class == of_class) for one in orders]


def _nearest(classes: Sequence[int], start: int, latency_s: Floats) -> tuple[int, ...]:
    tour, left = [start], [one for one in classes if one != start]
    while left:
        here = tour[-1]
        following = min(left, key=lambda one: (latency_s[here, one], one))
        tour.append(following)
        left.remove(following)
    return tuple(tour)


def between(pinned: Sequence[Item], tour: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """The tour cut into the gaps before, between and after the pinned machines, in every way (up to some)."""
    every = combinations_with_replacement(range(len(tour) + 1), len(pinned))
    for cuts in islice(every, _MAX_ORDERS):
        parts = [tour[a:b] for a, b in pairwise((0, *cuts, len(tour)))]
        yield tuple(item for part, pin in zip(parts, (*pinned, None), strict=True) for item in (*part, *_one(pin)))


def _one(item: Item | None) -> tuple[Item, ...]:
    return () if item is None else (item,)
