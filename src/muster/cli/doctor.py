"""`muster doctor`: looks for what would keep this machine from working in a pool, and names the fix.

Runs the checks of `checks` one after the other and prints them; exit code 8 if one of them failed. With `--dump` it
prints what a head was told lately and what it did, for a report of a fault.
"""

from dataclasses import asdict
from typing import Annotated

import typer

from muster.cli.find_head import find_head
from muster.cli.findings import FAILED, OK, Finding
from muster.cli.options import AdminToken, DataDir, HeadUrl, Json
from muster.cli.output import out, plain, show_json
from muster.cli.waiting import waiting
from muster.head.data_directory import data_dir

TROUBLE = 8
"""The exit code of `MachineTrouble`."""
MARKS = {OK: "[green]✓[/green]", FAILED: "[red]✗[/red]"}
UNSURE = "[yellow]![/yellow]"


def doctor(
    ticket: Annotated[
        str | None, typer.Argument(help="Also check whether this ticket is valid and its head in reach.")
    ] = None,
    port: Annotated[int, typer.Option(help="Check whether `muster serve` could take this port.")] = 8000,
    dump: Annotated[
        bool,
        typer.Option("--dump", help="Print the last few hundred events of the pool, without prompts or secrets."),
    ] = False,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir_: DataDir = None,
    as_json: Json = False,
) -> None:
    """Find what would keep this machine from serving or joining, and how to fix it."""
    if dump:
        remote = find_head(head, token, folder=data_dir_)
        with waiting(f"asking {remote.url}", as_json):
            story = remote.story()
        tell(story, as_json)
        return
    findings: list[Finding] = []
    with waiting("looking at this machine", as_json) as say:
        from muster.cli.checks import look

        for finding in look(data_dir(data_dir_), port, ticket, head, say):
            findings.append(finding)
            if not as_json:
                show(finding)
    if as_json:
        show_json({"ok": not any(f.state == FAILED for f in findings), "findings": [asdict(f) for f in findings]})
    if any(finding.state == FAILED for finding in findings):
        raise typer.Exit(TROUBLE)


def tell(story: str, as_json: bool) -> None:
    if as_json:
        show_json({"story": story.splitlines()})
    else:
        out.print(plain(story), soft_wrap=True)


def show(finding: Finding) -> None:
    out.print(f"{MARKS.get(finding.state, UNSURE)} {finding.name:<13} {plain(finding.detail)}", soft_wrap=True)
    if finding.fix:
        out.print(f"  {'':<13} [bold]fix:[/bold] {plain(finding.fix)}", soft_wrap=True)
