"""`muster lab`: a wide-area network on this machine. Reads options; the lab itself is in `lab/wan`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from muster.cli import lab_demo
from muster.cli.options import Json
from muster.cli.output import out, plain, show_facts, show_json, show_table
from muster.errors import InvalidRequest

app = typer.Typer(
    help="A wide-area network on this machine, for root: hosts, links as a scenario says, and faults on purpose.",
    no_args_is_help=True,
)
LabName = Annotated[str, typer.Option("--name", envvar="MUSTER_LAB", help="The lab is called this.")]
ANY = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("up")
def up(
    scenario: Annotated[str, typer.Argument(help="One of Muster's scenarios by name, or a TOML file.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            help="A host and its region, as in ada:tokyo, or a region alone. May be given several times.",
            show_default="one for each region",
        ),
    ] = None,
    name: LabName = "lab",
    network: Annotated[str, typer.Option(help="Hosts have addresses of this network.")] = "10.77.0.0/24",
    seed: Annotated[int, typer.Option(help="Losses and jitter are drawn from this.")] = 0,
    as_json: Json = False,
) -> None:
    """Bring up hosts that reach each other as SCENARIO says."""
    from muster.lab.wan import lifecycle
    from muster.link.shaped import load_scenario

    record = lifecycle.up(load_scenario(scenario), host or (), name=name, network=network, seed=seed)
    if as_json:
        hosts = [{"name": each.name, "region": each.region, "address": each.address} for each in record.hosts]
        show_json({"name": name, "scenario": record.scenario, "seat": record.seat, "hosts": hosts})
        return
    show_table("", ["host", "region", "address"], [(each.name, each.region, each.address) for each in record.hosts])
    out.print(f"`muster lab exec {record.hosts[0].name} -- COMMAND` runs anything there; `muster lab down` ends it.")


@app.command("down")
def down(name: LabName = "lab", as_json: Json = False) -> None:
    """End the lab and everything that runs on its hosts."""
    from muster.lab.wan import lifecycle
    from muster.lab.wan.namespaces import check_able

    check_able()
    was_up = lifecycle.down(name)
    if as_json:
        show_json({"name": name, "was_up": was_up})
    else:
        out.print(f"The lab {name} is down." if was_up else f"No lab called {name} was up.")


@app.command("exec", context_settings=ANY)
def execute(
    host: Annotated[str, typer.Argument(help="A host of the lab.")],
    command: Annotated[list[str], typer.Argument(help="What to run there, after --.")],
    name: LabName = "lab",
) -> None:
    """Run a command on HOST, with this machine's files and that host's network."""
    from muster.lab.wan.hosts import run_here
    from muster.lab.wan.record import running

    record = running(name)
    run_here(record, record.host(host), command)


@app.command("status")
def status(name: LabName = "lab", as_json: Json = False) -> None:
    """Show what has passed between the hosts, and how late the router was at worst."""
    from muster.lab.wan.control import Report, ask
    from muster.lab.wan.record import folder_of, running

    record = running(name)
    said = ask(folder_of(name), Report())
    if as_json:
        import msgspec

        show_json({"name": name, "scenario": record.scenario, **msgspec.to_builtins(said)})
        return
    rows = [
        [way.source, way.target, f"{way.passed_bytes / 1e6:.1f} MB", *map(str, (way.passed, way.lost, way.dropped))]
        for way in said.directions
    ]
    figures = ["bytes", "packets", "lost", "dropped"]
    show_table("", ["from", "to", *figures], rows, right=figures)
    show_facts(
        [
            ("router", f"{said.packets} packets in {said.processor_s:.1f} s of processor time"),
            ("latest", f"{1000 * said.latest_s:.2f} ms after a packet's time"),
            ("overrun", f"{said.crowded_out} packets were more than the router holds, {said.refused} were not taken"),
        ]
    )


@app.command("fault")
def fault(
    faults: Annotated[
        list[str] | None,
        typer.Argument(
            help="Such as leave:ada, join:ada@40, freeze:bob@12-20, slow:bob@5x0.3, cut:ada,bob@10-20, "
            "slow:ada,bob@5x0.1 or heal:ada,bob; without @ at once, else so many seconds from now."
        ),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="A file with such words, one a line.")] = None,
    name: LabName = "lab",
    as_json: Json = False,
) -> None:
    """Bring faults about, and end when the last one has come."""
    from muster.cli.fault_options import read_fault_file, read_lab_faults
    from muster.lab.faults import play_all
    from muster.lab.wan.record import running
    from muster.lab.wan.world import LabWorld

    record = running(name)
    words = [*(read_fault_file(file) if file else ()), *(faults or ())]
    if not words:
        raise InvalidRequest("Nothing is to go wrong; say a fault, such as leave:ada, or give a --file.", "fault")

    def say(sentence: str) -> None:
        if as_json:
            show_json({"event": "fault", "said": sentence})
        else:
            out.print(plain(sentence), soft_wrap=True)

    asyncio.run(play_all(read_lab_faults(words, lambda host: record.host(host).name), LabWorld(record, say)))


app.command("demo")(lab_demo.demo)
