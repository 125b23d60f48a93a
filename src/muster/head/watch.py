"""What a head tells of its pool, through `announce`. Its events are the contract with `lab/processes`:

listening  url, ticket, model            the door is open
joined     node, name, region            a machine is here
placed     epoch, stages                 [{node, name, region, first, last}], of all pipelines one after the other
waiting    reason                        nothing serves, and why
unpinned   node, reason                  a pin that is not kept, and why
doubted    node, name, reason            a machine claims what it has not, or has not shown
left       node, name                    a machine is gone
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from muster.broker.service import BrokerService
from muster.node.announce import Announce
from muster.wire.ticket import Ticket

WATCH_S = 0.25


def announce_door(announce: Announce, model: str, url: str, ticket: Ticket) -> None:
    line = ticket.encode()
    announce(
        "listening",
        f"{model} is served at {url}/v1 as soon as enough machines are here.\n"
        f"Join another machine with:\n\n  muster join {line}\n",
        url=url,
        ticket=line,
        model=model,
    )


def epochs_of(status: Mapping[str, Any]) -> list[int]:
    """Of the pipelines that serve."""
    return [one["epoch"] for job in status["jobs"] for one in job["pipelines"] if one["epoch"]]


def serving(status: Mapping[str, Any], verb: str = "Serving") -> str:
    """Who holds what, each pipeline in a sentence of its own."""
    placements = [one["placement"] for job in status["jobs"] for one in job["pipelines"] if one["placement"]]
    each = [
        ", ".join(f"{stage['name']} holds layers {stage['first']}–{stage['last'] - 1}" for stage in stages)
        for stages in placements
    ]
    return f"{verb}: " + "; and beside that: ".join(each) + "."


async def watch(service: BrokerService, announce: Announce, own_comes: bool = False, verb: str = "Serving") -> None:
    """Tell of machines that come and go and of every new placement; `verb` is what its machines are doing.

    Where this machine's own worker comes, nobody is asked for machines before it is here.
    """
    here: dict[str, Mapping[str, Any]] = {}
    epochs: list[int] = []
    trouble = ""
    unkept: dict[str, str] = {}
    doubted: dict[str, str] = {}
    while True:
        status = service.status()
        present = {node["id"]: node for node in status["nodes"] if node["state"] not in ("gone", "banned")}
        own_comes = own_comes and not present
        for node in present.values():
            if node["id"] not in here:
                facts = {"node": node["id"], "name": node["name"], "region": node["region"]}
                announce("joined", f"{node['name']} joined from {node['region'] or 'somewhere'}.", **facts)
        for node in here.values():
            if node["id"] not in present:
                announce("left", f"{node['name']} is gone.", node=node["id"], name=node["name"])
        if status["ready"] and (now_up := epochs_of(status)) != epochs:
            announce("placed", serving(status, verb), epoch=status["epoch"], stages=status["placement"])
            epochs = now_up
        if status["reason"] != trouble:
            trouble = status["reason"]
            if trouble and (present or not own_comes):
                announce("waiting", trouble, reason=trouble)
        now = {pin["node"]: pin["reason"] for pin in status["pins"] if status["ready"] and pin["reason"]}
        for node, reason in now.items():
            if unkept.get(node) != reason:
                announce("unpinned", f"The pin of {node} is not kept: {reason}", node=node, reason=reason)
        doubts = {id: node["doubt"] for id, node in present.items() if node["doubt"]}
        for id, doubt in doubts.items():
            if doubted.get(id) != doubt:
                name = present[id]["name"]
                announce("doubted", f"{name} is not believed in all: {doubt}", node=id, name=name, reason=doubt)
        here, unkept, doubted = present, now, doubts
        await asyncio.sleep(WATCH_S)
