"""A picture and its figures as one web page that needs nothing from elsewhere. Knows nothing of how it was drawn."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from muster.draw.facts import Forecast, Machine, UsedLink, machines, used_links
from muster.draw.palette import DARK
from muster.draw.words import bits_per_s, gib, numbers, percent, printable, seconds
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool

STYLE = """
:root { color-scheme: light dark; %(light)s }
@media (prefers-color-scheme: dark) { :root { %(dark)s } }
body { margin: 1.5rem; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
figure { margin: 0; overflow-x: auto; }
svg { max-width: 100%%; min-width: 60rem; height: auto; }
table { border-collapse: collapse; margin: .5rem 0 2rem; font-size: 13px; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
"""
_NAMES = (
    "paper",
    "ink",
    "quiet",
    "region",
    "region-edge",
    "card",
    "card-edge",
    "standby",
    "standby-ink",
    "idle",
    "rule",
)
_VARIABLES = dict(zip(DARK, _NAMES, strict=True))


def page(svg: str, plan: Plan, pool: Pool, shape: ModelShape, forecast: Forecast) -> str:
    """`svg` is the picture; its colours of paper and ink follow the reader's light or dark screen."""
    title = escape(printable(f"{plan.model} on {pool.name or 'a pool'}"))
    everyone = machines(plan, pool, shape, forecast)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_style()}</style>\n</head>\n'
        f"<body>\n<figure>{_inline(svg, title)}</figure>\n"
        f"{_stages(everyone)}\n{_links(used_links(plan, pool, forecast), pool)}\n{_said(plan)}</body>\n</html>\n"
    )


def _style() -> str:
    light = " ".join(f"--{name}: {colour};" for colour, name in _VARIABLES.items())
    dark = " ".join(f"--{name}: {DARK[colour]};" for colour, name in _VARIABLES.items())
    return STYLE % {"light": light, "dark": dark}


def _inline(svg: str, title: str) -> str:
    inner = svg[svg.index("<svg") :].strip()
    for colour, name in _VARIABLES.items():
        inner = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var(--{name})", inner)
    return inner.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _stages(everyone: Iterable[Machine]) -> str:
    heads = ["pipeline", "stage", "layers", "machine", "region", "devices", "#busy", "#memory GiB", "#of GiB"]
    found = [(machine, work) for machine in everyone for work in machine.work]
    rows = [
        [
            f"{work.pipeline + 1}",
            f"{work.index + 1}",
            f"{work.stage.first}–{work.stage.last - 1}",
            machine.node.name,
            machine.node.region,
            f"{machine.node.device.name} {numbers(work.stage.devices)}",
            "" if work.busy is None else percent(work.busy),
            gib(work.fill * work.cap_bytes),
            gib(work.cap_bytes),
        ]
        for machine, work in sorted(found, key=lambda pair: (pair[1].pipeline, pair[1].index))
    ]
    return _table("Stages", heads, rows)


def _links(links: Sequence[UsedLink], pool: Pool) -> str:
    names = {node.id: node.name for node in pool.nodes}
    heads = ["from", "to", "#latency", "#bandwidth", "codec", "#load"]
    rows = [
        [
            names[link.source],
            names[link.target],
            seconds(link.speed.latency_s),
            bits_per_s(link.speed.bandwidth_bytes_per_s),
            link.codec or "none",
            "" if link.share is None else percent(link.share),
        ]
        for link in links
    ]
    return _table("Links in use", heads, rows) if rows else ""


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A head that starts with # is of a column of figures."""
    classes = [' class="number"' if head.startswith("#") else "" for head in heads]
    top = "".join(f"<th{kind}>{head.lstrip('#')}</th>" for kind, head in zip(classes, heads, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{c}>{escape(printable(v))}</td>" for c, v in zip(classes, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><caption>{caption}</caption>\n<tr>{top}</tr>\n{body}\n</table></div>'


def _said(plan: Plan) -> str:
    return f"<p>{escape(printable(plan.explanation))}</p>\n" if plan.explanation else ""
