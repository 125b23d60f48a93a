"""What a placement protects and what it does not, in sentences. Pure; figures are those of `gaps`."""

from collections.abc import Callable

from muster.plan.private.gaps import GUIDED_TRIES, Sight
from muster.plan.private.placement import PrivatePlacement


def sight_in_words(found: Sight, vocab_size: int) -> str:
    """Of one observer, on a long prompt."""
    if found.sees_all:
        return "sees the whole prompt"
    blind, guided = found.work(vocab_size), found.work(GUIDED_TRIES)
    return (
        f"reads {100 * found.seen / found.tokens:.0f} % of the tokens, up to {found.longest_run} in a row; the first "
        f"that is not its own costs 10^{guided:.0f} forward passes of a search that a language model guides (in the "
        f"median), 10^{blind:.0f} of a blind one (gap {found.smallest_gap})"
    )


def placement_in_words(placement: PrivatePlacement, vocab_size: int, called: Callable[[str], str] = str) -> list[str]:
    """One sentence a machine, which is `called` so, then what nobody protects."""
    lines = [
        f"{called(name)}: {sight_in_words(placement.sight_of([name]), vocab_size)}." for name in sorted(placement.roles)
    ]
    owners, worst = placement.worst()
    if placement.colluders > 1 or len(set(placement.owners.values())) < len(placement.roles):
        who = " and ".join(map(called, owners))
        lines.append(
            f"If all machines of {who} talk, {sight_in_words(worst, vocab_size).replace('reads', 'they read', 1)}."
        )
    lines.append(
        "Everybody learns how long prompt and answer are, and when tokens come. Machines are trusted to compute what "
        "they should, and no more than "
        + (
            "one owner's are expected to talk."
            if placement.colluders == 1
            else f"{placement.colluders} owners to talk."
        )
    )
    return lines
