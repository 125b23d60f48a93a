"""What one machine more of a kind would add: plan again for the pool that has it. Knows no terminal."""

from collections.abc import Callable
from dataclasses import replace

from muster.cli.plan_record import OneMore
from muster.cli.plan_stages import device
from muster.cli.question import Answer, Question, answer
from muster.plan.one_more import kinds, with_one_more
from muster.spec.pool import Node

MOST_KINDS = 6
"""The most frequent ones are tried; each is a search of its own."""


def one_more(question: Question, now: Answer, out_of_time: Callable[[], bool]) -> list[OneMore]:
    """The most helpful first. Pins and budget hold for the larger pool too; a search cut short ends the list.

    Nothing for DT-FM's objective: it uses every machine once, and one more seldom makes whole rows.
    """
    if question.objective == "dtfm":
        return []
    found: list[OneMore] = []
    for like in kinds(question.pool)[:MOST_KINDS]:
        if out_of_time():
            break
        found.append(_with(question, like, out_of_time))
    fewest_first = question.objective in ("latency", "train")
    return sorted(found, key=lambda one: one.score if fewest_first else -one.score)


def _with(question: Question, like: Node, out_of_time: Callable[[], bool]) -> OneMore:
    pool = with_one_more(question.pool, like)
    made = answer(replace(question, pool=pool), out_of_time)
    used = {node for pipeline in made.plan.pipelines for node in pipeline.nodes()}
    return OneMore(
        device=device(like),
        devices=like.device_count,
        region=like.region,
        like=like.name,
        score=made.score or 0.0,
        plan_uses_it=pool.nodes[-1].id in used,
    )
