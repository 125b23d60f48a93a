"""`muster demo`: a head and four mismatched workers on this machine, one of them killed in mid-stream.

Shows what `lab/rehearsal` does; everything it shows is also in the `--json` record.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from muster.cli.options import Json, format_bytes
from muster.cli.output import out, plain, show_json
from muster.cli.placement_text import placement_lines
from muster.cli.waiting import waiting
from muster.errors import PoolUnavailable


def demo(
    model: Annotated[str, typer.Option(help="The pool serves this model.")] = "tiny",
    max_tokens: Annotated[int, typer.Option(min=8, help="Each stream has so many tokens.")] = 64,
    kill: Annotated[str | None, typer.Option(help="Kill this worker.", show_default="one in the middle")] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the logs and keys of all processes in this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Rehearse a pool on this machine: four mismatched workers in three regions, one of them killed in mid-stream."""
    with waiting(f"reading {model}, and trying how it can be split where that was never tried here", as_json):
        from muster.lab.rehearsal import run
        from muster.lab.stage_set import demo_rehearsal

        rehearsal = demo_rehearsal(model, max_tokens, kill)
    with tempfile.TemporaryDirectory(prefix="muster-demo-") as temporary:
        folder = keep or Path(temporary)
        if not as_json:
            out.print("four workers, none of which could hold the model alone:")
            for worker in rehearsal.workers:
                lent = f"{format_bytes(worker.memory_bytes):>7} at {worker.speed:.0%} speed"
                out.print(f"  {worker.name:<5} in {worker.region:<10} lends {lent}")
        with Watcher(as_json) as watcher:
            outcome = run(rehearsal, folder, watcher)
    record = outcome.record(rehearsal.workers)
    if as_json:
        show_json(record)
    else:
        show_outcome(record)
    if record["requests_failed"]:
        raise PoolUnavailable(
            f"{record['requests_failed']} streams failed; run again with --keep DIR and see its logs."
        )
    if record["requests_identical"] < record["requests"]:
        raise PoolUnavailable(
            "A stream ended differently after the kill; run again with --keep DIR and report its logs."
        )


class Watcher:
    """Prints each step; while somebody looks, also a spinner between steps and the answers as they grow."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.started = time.monotonic()
        watched = not quiet and sys.stdout.isatty()
        self.live = Live(Spinner("dots"), console=out, refresh_per_second=8, transient=True) if watched else None

    def __enter__(self) -> "Watcher":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, sentence: str) -> None:
        if not self.quiet:
            out.print(plain(f"{time.monotonic() - self.started:6.1f} s  {sentence}"), soft_wrap=True)

    def placement(self, title: str, stages: Sequence[dict[str, Any]]) -> None:
        self.say(title)
        if not self.quiet:
            for line in placement_lines(stages, width=max(60, out.width - 10)):
                out.print(plain(" " * 10 + line), soft_wrap=True)

    def streams(self, streams: Sequence[Any]) -> None:
        if self.live is None:
            return
        table = Table(box=None, show_header=False, pad_edge=False)
        for stream in streams:
            last = stream.text.rstrip().rpartition("\n")[2].strip()
            table.add_row(f"[cyan]{stream.prompt.name}[/cyan]", str(len(stream.text)), plain(last[:70]))
        self.live.update(Spinner("dots") if all(stream.finish for stream in streams) else table)


def show_outcome(record: dict[str, Any]) -> None:
    out.print()
    for stream in record["streams"][:2]:
        out.print(f"[bold]{stream['name']}[/bold]: a held-out beginning (dim), and how the pool went on")
        out.print(f"[dim]{plain(stream['prompt'])}[/dim]{plain(stream['text'])}\n", soft_wrap=True)
    calm = record["undisturbed"]
    out.print(f"undisturbed     {calm['tokens']} tokens, {calm['tokens_per_s']} tokens/s")
    out.print(
        f"with a kill     {record['tokens']} tokens, {record['tokens_per_s']} tokens/s; {record['killed']} was killed"
    )
    out.print(f"longest silence {record['longest_silence_s']} s of any stream, while the ring was repaired")
    out.print(f"failed          {record['requests_failed']} of {record['requests']} streams")
    out.print(f"identical       {record['requests_identical']} of {record['requests']} to the undisturbed run")
