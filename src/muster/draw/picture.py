"""The picture of a plan, as a file: title, map, timeline. Knows nothing of how the plan came about."""

from collections.abc import Sequence
from pathlib import Path

from muster.draw.facts import Forecast
from muster.draw.legend import map_legend, timeline_legend
from muster.draw.map import draw_map
from muster.draw.page import page
from muster.draw.render import png, svg
from muster.draw.sheet import Label, Sheet, fit, paragraph, stacked
from muster.draw.timeline import draw_timeline
from muster.draw.words import percent, seconds
from muster.errors import InvalidRequest, MachineTrouble
from muster.sim.timeline import Span
from muster.spec.forecast import TrainForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool

SUFFIXES = (".svg", ".png", ".html")
LEAST_WIDTH = 640.0
MARGIN = 18.0


def save_picture(
    path: str | Path, plan: Plan, pool: Pool, shape: ModelShape, forecast: Forecast = None, spans: Sequence[Span] = ()
) -> None:
    """Write the map and, with `spans`, the timeline of `plan` as `.svg`, `.png` or `.html`, by the suffix of `path`.

    The same input gives the same bytes. Raises `InvalidRequest` for another suffix or a plan of another pool,
    `MachineTrouble` where the file cannot be written.
    """
    path = Path(path)
    suffix = check_suffix(path)
    sheet = draw_picture(plan, pool, shape, forecast, spans)
    if suffix == ".png":
        content = png(sheet)
    elif suffix == ".svg":
        content = svg(sheet).encode("utf-8")
    else:
        content = page(svg(sheet), plan, pool, shape, forecast).encode("utf-8")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise MachineTrouble(
            f"The picture cannot be written to {path} ({error.strerror}); choose another file for --picture."
        ) from error


def check_suffix(path: str | Path) -> str:
    """Before any work is done. Raises `InvalidRequest`."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidRequest(
            f"A picture is written as .svg, .png or .html, and {Path(path).name!r} ends in none of them; rename it.",
            "picture",
        )
    return suffix


def draw_picture(
    plan: Plan, pool: Pool, shape: ModelShape, forecast: Forecast = None, spans: Sequence[Span] = ()
) -> Sheet:
    plan_map = draw_map(plan, pool, shape, forecast)
    width = max(LEAST_WIDTH, plan_map.width)
    parts = [_heading(plan, pool, forecast, width), plan_map, map_legend(plan, forecast, plan_map.marks)]
    if spans:
        timeline = draw_timeline(plan, pool, spans, width)
        parts += [timeline, timeline_legend(timeline.marks)]
    return stacked(parts, gap=10, margin=MARGIN)


def _heading(plan: Plan, pool: Pool, forecast: Forecast, width: float) -> Sheet:
    doing = "training" if plan.trains else "serving"
    where = f" on {pool.name}" if pool.name else ""
    sheet = Sheet(width, 18)
    sheet.put(Label(0, 8, fit(f"{doing.capitalize()} {plan.model}{where}", width, 13, True), 13, bold=True))
    if forecast:
        sheet.put(Label(0, 24, fit(headline(forecast), width, 9), 9))
        said = paragraph(f"Bottleneck: {forecast.bottleneck}", width)
        sheet.paste(said, 0, 34)
        sheet.height = 34 + said.height
    return sheet


def headline(forecast: Forecast) -> str:
    """The figures that one asks for first; nothing without a forecast."""
    if forecast is None:
        return ""
    if isinstance(forecast, TrainForecast):
        step = f"{seconds(forecast.pipeline_s)} pipeline, {seconds(forecast.exchange_s)} exchange"
        return f"{seconds(forecast.step_s)} a step ({step}) · {forecast.tokens_per_s:,.0f} tokens/s"
    parts = [
        f"{forecast.tokens_per_s:,.0f} tokens/s",
        f"first token after {seconds(forecast.time_to_first_token_s)}",
        f"{seconds(forecast.seconds_per_token)} per token",
        f"{seconds(forecast.request_s)} per request",
    ]
    return " · ".join(parts + ([] if forecast.attainment is None else [f"{percent(forecast.attainment)} in time"]))
