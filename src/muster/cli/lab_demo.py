"""`muster lab demo`: a pool on the hosts of a lab, on one screen that moves. Shows what `lab/live` does.

Where nobody looks, it prints what happens line by line; everything shown is also in the `--json` record.
"""

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from muster.cli.options import Json
from muster.cli.output import out, plain, show_json
from muster.cli.waiting import waiting
from muster.errors import PoolUnavailable

FAULTS = ("cut:{a},{b}@10-16", "freeze:{c}@24-26", "leave:{b}@32", "join:{b}@50")
"""Of three workers, in seconds since the pool serves."""
BARS = " ▁▂▃▄▅▆▇█"
SHOWN_EVENTS, SHOWN_LINKS, SHOWN_SECONDS = 12, 8, 60


def demo(
    scenario: Annotated[
        str, typer.Argument(help="One of Muster's scenarios by name, or a TOML file.")
    ] = "three-regions-20-80ms",
    model: Annotated[str, typer.Option(help="The pool serves this model.")] = "tiny",
    file: Annotated[
        Path | None, typer.Option("--faults", help="A file of faults, one a line, timed from the first answer on.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=5, help="The pool serves so long.")] = 75.0,
    streams: Annotated[int, typer.Option(min=1, max=64, help="So many requests run at once.")] = 8,
    name: Annotated[str, typer.Option("--name", help="The lab is called this.")] = "demo",
    network: Annotated[str, typer.Option(help="Hosts have addresses of this network.")] = "10.79.0.0/24",
    as_json: Json = False,
) -> None:
    """Watch a pool over a wide area on this machine: tokens per second, links, and faults as they happen."""
    with waiting(f"reading {model}, and trying how it can be split where that was never tried here", as_json):
        show = _show(scenario, model, file, seconds, streams, name, network)
        from muster.lab.live import perform
    with tempfile.TemporaryDirectory(prefix="muster-lab-") as folder, Screen(as_json) as screen:
        scene = asyncio.run(perform(show, Path(folder), screen.watch))
    record = scene.record(seconds)
    if as_json:
        show_json(record)
    else:
        out.print(f"{record['tokens']} tokens in {seconds:g} s, {record['tokens_per_s']} tokens/s")
        out.print(f"{record['requests_failed']} of {record['requests']} requests failed")
        out.print(f"longest silence of a stream {record['longest_silence_s']} s")
    if record["requests_failed"]:
        raise PoolUnavailable(f"{record['requests_failed']} requests failed ({record['errors'][0]}); report it.")


def _show(scenario: str, model: str, file: Path | None, seconds: float, streams: int, name: str, network: str) -> Any:
    """Raises `MusterError` for all that can be told before anything starts."""
    from muster.cli.fault_options import read_fault_file, read_lab_faults
    from muster.lab.live import Show, spread
    from muster.lab.stage_set import demo_rehearsal
    from muster.lab.wan.layout import lay_out
    from muster.lab.wan.namespaces import check_able
    from muster.link.shaped import load_scenario

    check_able()
    network_of = load_scenario(scenario)
    rehearsal = demo_rehearsal(model, 8, None)
    workers = spread(rehearsal.workers, network_of)
    head_region = network_of.regions[0]
    hosts = [f"head:{head_region}", *(f"{worker.name}:{worker.region}" for worker in workers)]
    layout = lay_out(network_of, hosts, network)
    a, b, c = (worker.name for worker in workers[:3])
    words = read_fault_file(file) if file else [word.format(a=a, b=b, c=c) for word in FAULTS]
    faults = read_lab_faults(words, lambda host: layout.host(host).name)
    prompts = tuple(rehearsal.prompts[number % len(rehearsal.prompts)] for number in range(streams))
    return Show(model, network_of, workers, prompts, head_region, faults, seconds, name, network)


class Screen:
    """One picture that moves where somebody looks, lines elsewhere, nothing with `--json`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._told = 0
        watched = not quiet and sys.stdout.isatty()
        self._live = Live(console=out, refresh_per_second=4) if watched else None

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def watch(self, scene: Any) -> None:
        if self._live is not None:
            self._live.update(picture(scene))
        elif not self._quiet:
            for at_s, sentence in scene.told[self._told :]:
                out.print(plain(f"{at_s:6.1f} s  {sentence}"), soft_wrap=True)
            self._told = len(scene.told)


def picture(scene: Any) -> Group:
    """The ring and the busiest links beside each other, tokens per second above, events below."""
    rate = f"{scene.rates[-1]:.0f} tokens/s" if scene.rates else "not serving yet"
    top = Panel(f"[bold]{rate}[/bold]  {sparkline(scene.rates)}  {scene.tokens} tokens, {len(scene.failed)} failed")
    ring = _table("the ring", [(stage["name"], stage["region"], _layers(stage)) for stage in scene.ring])
    busiest = sorted(scene.mbit_per_s.items(), key=lambda link: -link[1])[:SHOWN_LINKS]
    links = _table("busiest links", [(one, other, f"{mbit:.2f} Mbit/s") for (one, other), mbit in busiest])
    events = _table("events", [(f"{at_s:.0f} s", said) for at_s, said in scene.told[-SHOWN_EVENTS:]])
    return Group(top, Columns([ring, links], padding=(0, 4)), events)


def sparkline(rates: Sequence[float]) -> str:
    shown = list(rates)[-SHOWN_SECONDS:]
    most = max(shown, default=0.0) or 1.0
    return "".join(BARS[round(rate / most * (len(BARS) - 1))] for rate in shown)


def _layers(stage: dict[str, Any]) -> str:
    return f"layers {stage['first']}–{stage['last'] - 1}"


def _table(title: str, rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(*map(plain, row))
    return table
