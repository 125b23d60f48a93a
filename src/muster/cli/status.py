"""`muster status`: the pool at a glance, once or every second. Draws what the head says; measures nothing itself."""

import time
from typing import Annotated, Any

import typer

from muster.cli.find_head import find_head
from muster.cli.options import AdminToken, DataDir, HeadUrl, Json, format_age, format_bytes
from muster.cli.output import out, plain, show_json, show_table
from muster.cli.placement_text import placement_lines
from muster.cli.waiting import waiting


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Look again after so many seconds.")] = 1.0,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the machines of the pool and which layers each one holds."""
    remote = find_head(head, token, folder=data_dir)
    try:
        while True:
            with waiting(f"asking {remote.url}", as_json or watch):
                record = remote.status()
            if as_json:
                show_json(record)
            else:
                if watch:
                    out.clear()
                draw(record)
            if not watch:
                return
            time.sleep(interval)
    finally:
        remote.close()


def draw(record: dict[str, Any]) -> None:
    state = "serving" if record.get("ready") else "waiting for machines"
    out.print(plain(f"{record.get('model', '?')}: {state}, {record.get('active_requests', 0)} requests running"))
    if record.get("reason"):
        out.print(plain(record["reason"]), soft_wrap=True)
    for pin in record.get("pins", []):
        if pin.get("reason"):
            out.print(plain(f"The pin of {pin.get('node', '?')} is not kept: {pin['reason']}"), soft_wrap=True)
    for line in pipeline_lines(record):
        out.print(plain(line), soft_wrap=True)
    for node in record.get("nodes", []):
        if node.get("doubt"):
            out.print(plain(f"{node.get('name', '?')} is not believed in all: {node['doubt']}"), soft_wrap=True)
    for pipeline in (pipeline for job in record.get("jobs", []) for pipeline in job.get("pipelines", [])):
        if pipeline.get("guesses"):
            out.print(plain(guess_line(pipeline["guesses"])))
    for line in codec_lines(record):
        out.print(plain(line), soft_wrap=True)
    show_table("", COLUMNS, [node_row(node) for node in record.get("nodes", [])])


def pipeline_lines(record: dict[str, Any]) -> list[str]:
    """The stages of each pipeline; where there are several, what each does, too."""
    pipelines = [one for job in record.get("jobs", []) for one in job.get("pipelines", [])]
    if len(pipelines) < 2:
        return placement_lines(record.get("placement", []))
    lines: list[str] = []
    for one in pipelines:
        forecast, measured = one.get("forecast") or {}, one.get("measured") or {}
        says = one["reason"] or (
            f"{measured.get('requests', 0)} requests, {measured.get('tokens_per_s', 0):.1f} tokens/s now, "
            f"{measured.get('most_tokens_per_s', 0):.1f} at most, forecast {forecast.get('tokens_per_s', 0):.1f}"
            + (", silent" if measured.get("stalled") else "")
        )
        lines += [f"{one['pipeline']}: {says}", *placement_lines(one["placement"])]
    return lines


def guess_line(guesses: dict[str, Any]) -> str:
    per_pass, guessed = guesses["tokens_per_pass"], guesses["guessed"]
    if not guessed:
        return f"No tokens were guessed; {per_pass:.1f} per sequence and pass"
    right = guesses["accepted"] / guessed
    return f"{right:.0%} of {guessed} guessed tokens were right; {per_pass:.1f} per sequence and pass"


COLUMNS = ["node", "name", "region", "state", "trust", "memory", "layers", "round trip"]


def codec_lines(record: dict[str, Any]) -> list[str]:
    """Which links are packed, and what the checks of their codecs found, the latest last."""
    links = [f"{link['source']} → {link['target']} in {link['codec']}" for link in record.get("codecs", [])]
    lines = [f"Packed links: {', '.join(links)}."] if links else []
    for check in record.get("codec_checks", []):
        names, verdict = " and ".join(check["codecs"]), "passed" if check["passed"] else "refused"
        figures = "it did not come to an end"
        if check["positions"]:
            share = f"{check['agreement']:.2%} of {check['positions']} likeliest tokens"
            figures = f"{share} as with raw values, divergence {check['divergence']:.2g} nats"
        lines.append(f"Check of {names}: {verdict}; {figures}.")
    return lines


def node_row(node: dict[str, Any]) -> list[str]:
    layers = node.get("layers")
    round_trip_s = node.get("round_trip_s")
    return [
        str(node.get("id", ""))[:10],
        str(node.get("name", "")),
        str(node.get("region", "")),
        str(node.get("state", "")) + (f" {format_age(node['gone_s'])}" if node.get("gone_s") is not None else ""),
        str(node.get("trust", "")),
        _memory(node),
        f"{layers[0]}–{layers[1] - 1}" if layers else "",
        f"{round_trip_s * 1000:.1f} ms" if round_trip_s is not None else "",
    ]


def _memory(node: dict[str, Any]) -> str:
    if not node.get("memory_bytes"):
        return ""
    host = f" + {format_bytes(node['host_memory_bytes'])} of host" if node.get("host_memory_bytes") else ""
    return format_bytes(node["memory_bytes"]) + host
