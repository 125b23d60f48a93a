"""What one machine more of a kind would add: plan again for the pool that has it. Knows no terminal."""

from dataclasses import replace

from muster.cli.interruptible import Interrupt
from muster.cli.plan_record import OneMore
from muster.cli.plan_stages import device
from muster.cli.planning import Answer, Question, answer_in_dtype
from muster.plan.one_more import kinds, with_one_more
from muster.spec.pool import Node

MAX_KINDS = 6
"""The most frequent ones are tried; each is a search of its own."""
LEAST_CHANGE = 0.005
"""Less is none: it is within what a search finds by chance."""
EFFORT = 200
"""Layouts that each of these searches looks at."""


def one_more(question: Question, now: Answer, interrupt: Interrupt) -> list[OneMore]:
    """The most helpful first. Pins and budget hold for the larger pool too; a search cut short ends the list.

    Nothing for a plan that was kept, whose score nobody knows, nor for DT-FM's objective: it uses every machine once,
    and one more seldom makes whole rows.
    """
    if question.objective == "dtfm" or now.score is None or interrupt():
        return []
    brief = replace(question, effort=EFFORT, narrower=())
    # Where the search had more time than these have, the plan that they are laid beside gets as little.
    before = answer_in_dtype(brief, interrupt)[1].score if now.evaluations > EFFORT else now.score
    found: list[OneMore] = []
    for like in kinds(question.pool)[:MAX_KINDS]:
        if interrupt():
            break
        interrupt.say(f"planning with one more like {like.name}")
        found.append(_with(brief, like, before or 0.0, now.score, interrupt))
    return sorted(found, key=lambda one: one.score if _less_is_better(question) else -one.score)


def _less_is_better(question: Question) -> bool:
    return question.objective in ("latency", "train")


def _with(question: Question, like: Node, before: float, now: float, interrupt: Interrupt) -> OneMore:
    pool = with_one_more(question.pool, like)
    _, made = answer_in_dtype(replace(question, pool=pool), interrupt)
    used = {node for pipeline in made.plan.pipelines for node in pipeline.nodes()}
    # The larger pool can always do what the smaller does, so a search that found less has found nothing.
    best = min if _less_is_better(question) else max
    change = best(1.0, (made.score or 0.0) / before) if before else 1.0
    return OneMore(
        device=device(like),
        devices=like.device_count,
        region=like.region,
        like=like.name,
        score=now * change,
        plan_uses_it=abs(change - 1.0) >= LEAST_CHANGE and pool.nodes[-1].id in used,
    )
