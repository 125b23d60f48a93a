"""A plan that somebody kept, believed only as far as it can be checked. Knows no search and no simulator.

What is written may have been edited, or the pool may be another one: what each stage needs is counted anew.
"""

from dataclasses import astuple
from math import isclose
from pathlib import Path

from muster.cli.plan_inputs import read_text
from muster.cli.planning import Answer, Question, check_serves, forecast_of
from muster.cost.codec_table import codec_named
from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.words import bytes_in_words
from muster.spec.codec import Codec
from muster.spec.forecast import StageForecast
from muster.spec.plan import Plan
from muster.spec.plan_file import PlanFile, parse_plan_file


def read_plan(path: Path) -> PlanFile:
    """Raises `InvalidRequest` on anything that is not a whole, usable plan with codecs that exist."""
    held = parse_plan_file(read_text(path, "lock"), str(path))
    for link in held.plan.codecs:
        if not _same(link.codec, codec_named(link.codec.name)):
            reason = f"{path} has other figures for codec {link.codec.name} than that codec has"
            raise InvalidRequest(f"{reason}; plan anew with `muster plan`.", "lock")
    return held


def forecast_again(question: Question, plan: Plan) -> Answer:
    """What a kept plan will do; no search, so nothing is known of better ones.

    Raises `DoesNotFit` if a stage needs more memory than its machine lends, by the same count as a search makes, and
    `InvalidRequest` on requests that the model does not take.
    """
    if not plan.trains:
        check_serves(question.shape, question.serve)
    forecast = forecast_of(question, plan)
    for stage in forecast.stages:
        if stage.headroom_bytes < 0:
            raise _too_large(question, stage)
    return Answer(plan, forecast)


def _same(one: Codec, other: Codec) -> bool:
    """But for rounding: another version of a library may round a codec's figures otherwise."""
    figures = zip(astuple(one)[1:], astuple(other)[1:], strict=True)
    return one.name == other.name and all(isclose(*pair, rel_tol=1e-9) for pair in figures)


def _too_large(question: Question, stage: StageForecast) -> DoesNotFit:
    node = next(node for node in question.pool.nodes if node.id == stage.node)
    layers = f"layers {stage.first} to {stage.last - 1}" if stage.last - stage.first > 1 else f"layer {stage.first}"
    each = f" on each of {len(stage.devices)} devices" if len(stage.devices) > 1 else ""
    return DoesNotFit(
        f"The plan has {layers} on {node.name}, where that needs {bytes_in_words(stage.used_bytes)}{each}, "
        f"{bytes_in_words(-stage.headroom_bytes)} more than {node.name} lends; plan anew with `muster plan`."
    )
