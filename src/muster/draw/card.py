"""One machine as a card: its name, its layers, how full its memory is. Knows nothing of its neighbours."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import median

from muster.draw.facts import Machine, StageLoad
from muster.draw.palette import (
    CACHE,
    CARD,
    CARD_EDGE,
    IDLE,
    INK,
    OTHER,
    QUIET,
    STANDBY,
    STANDBY_INK,
    TOO_FULL,
    WEIGHTS,
)
from muster.draw.sheet import Box, Label, Mark, Sheet, fit, text_width
from muster.draw.words import between, count, gib, layers, numbers, percent

PAD = 5.0
NAME_HEIGHT = 13.0
WORK_HEIGHT = 19.0
CHIP_HEIGHT = 10.0
NAME_SIZE, WORK_SIZE, SMALL = 7.0, 6.5, 5.8


def card(machine: Machine, width: float, num_pipelines: int) -> Sheet:
    sheet = Sheet(width, NAME_HEIGHT + WORK_HEIGHT * len(machine.work) + 2)
    sheet.put(Box(0, 0, width, sheet.height, CARD, CARD_EDGE, 3))
    sheet.put(*_name(machine, width))
    for index, work in enumerate(machine.work):
        sheet.put(*_work(machine, work, NAME_HEIGHT + WORK_HEIGHT * index, width, num_pipelines))
    return sheet


def _name(machine: Machine, width: float) -> list[Mark]:
    several = f"{machine.node.device_count} × " if machine.node.device_count > 1 else ""
    device = fit(several + _without_maker(machine.node.device.name), width * 0.45, SMALL)
    room = width - 2 * PAD - text_width(device, SMALL) - 4
    name = fit(machine.node.name or machine.node.id[:8], room, NAME_SIZE, bold=True)
    marks: list[Mark] = [Label(PAD, 8, name, NAME_SIZE, INK, bold=True)]
    return [*marks, Label(width - PAD, 8, device, SMALL, QUIET, "right")] if device else marks


def _without_maker(device: str) -> str:
    """The part of a device's name that tells it from others."""
    for maker in ("NVIDIA ", "GeForce ", "AMD ", "Intel ", "Apple "):
        device = device.removeprefix(maker)
    return device


def _work(machine: Machine, work: StageLoad, y: float, width: float, num_pipelines: int) -> list[Mark]:
    right = "" if work.busy is None else f"{percent(work.busy)} busy"
    room = width - 2 * PAD - text_width(right, SMALL) - 3
    used = work.fill * work.cap_bytes
    return [
        Label(PAD, y + 4.5, fit(_held(machine, work, num_pipelines), room, WORK_SIZE), WORK_SIZE),
        *([Label(width - PAD, y + 4.5, right, SMALL, QUIET, "right")] if right else []),
        *_bar(work, PAD, y + 10, width * 0.45 - PAD),
        Label(width - PAD, y + 12.7, f"{gib(used)} of {gib(work.cap_bytes)} GiB", SMALL, QUIET, "right"),
    ]


def _held(machine: Machine, work: StageLoad, num_pipelines: int) -> str:
    parts = [f"P{work.pipeline + 1}"] if num_pipelines > 1 else []
    parts.append(layers(work.stage.first, work.stage.last))
    if machine.node.device_count > 1:
        parts.append(f"dev {numbers(work.stage.devices)}")
    return " · ".join(parts)


def _bar(work: StageLoad, x: float, y: float, width: float) -> list[Mark]:
    """Weights, cache and the rest, one after the other, of what the machine lends."""
    cap = max(1, work.cap_bytes)
    sizes = (work.weights_bytes, work.cache_bytes, work.other_bytes)
    ends = [min(1.0, end / cap) for end in accumulate(sizes, initial=0)]
    parts: list[Mark] = [Box(x, y, width, 5, IDLE, CARD_EDGE, line_width=0.4)]
    for start, end, colour in zip(ends, ends[1:], (WEIGHTS, CACHE, OTHER), strict=False):
        if end > start:
            parts.append(Box(x + width * start, y, width * (end - start), 5, colour))
    if work.fill > 1:
        parts.append(Box(x, y, width, 5, "", TOO_FULL, line_width=1.2))
    return parts


def chips(idle: Sequence[Machine], width: float, most: int) -> Sheet:
    """Machines without layers, grey: by name up to `most` of them, then as a number."""
    sheet = Sheet(width)
    for role, words in (("standby", "standing by"), ("left out", "not used")):
        here = [machine for machine in idle if machine.role == role]
        if here:
            _flow(sheet, words, [machine.node.name or machine.node.id[:8] for machine in here], most)
    return sheet


def _flow(sheet: Sheet, words: str, names: Sequence[str], most: int) -> None:
    shown = list(names[:most]) if len(names) <= most + 1 else list(names[: most - 1])
    hidden = len(names) - len(shown)
    sheet.put(Label(0, sheet.height + 5, f"{words}: {len(names):,}" if hidden else words, SMALL, STANDBY_INK))
    sheet.height += 10
    texts = [fit(name, sheet.width - 8, SMALL) for name in shown]
    if hidden and shown:
        texts.append(f"and {hidden:,} more")
    _boxes(sheet, texts)


def _boxes(sheet: Sheet, texts: Iterable[str]) -> None:
    x = 0.0
    for text in texts:
        width = text_width(text, SMALL) + 6
        if x and x + width > sheet.width:
            x, sheet.height = 0.0, sheet.height + CHIP_HEIGHT + 2
        sheet.put(Box(x, sheet.height, width, CHIP_HEIGHT, STANDBY, radius=2))
        sheet.put(Label(x + 3, sheet.height + CHIP_HEIGHT / 2, text, SMALL, STANDBY_INK))
        x += width + 3
    sheet.height += CHIP_HEIGHT + 3 if x else 0.0


def summary(machines: Sequence[Machine], width: float) -> Sheet:
    """Many machines at work, as figures."""
    work = [held for machine in machines for held in machine.work]
    fills = sorted(held.fill for held in work)
    first, last = min(held.stage.first for held in work), max(held.stage.last for held in work)
    lines = [
        f"{count(len(machines), 'machine')} at work",
        f"{count(len(work), 'stage')} of {count(len({held.pipeline for held in work}), 'pipeline')}",
        f"within {layers(first, last)}",
        f"memory {between(fills[0], fills[-1])} full, median {percent(median(fills))}",
    ]
    sheet = Sheet(width, 11.0 * len(lines) + 6)
    sheet.put(Box(0, 0, width, sheet.height, CARD, CARD_EDGE, 3))
    for index, line in enumerate(lines):
        text = fit(line, width - 2 * PAD, WORK_SIZE, bold=not index)
        sheet.put(Label(PAD, 8.5 + 11 * index, text, WORK_SIZE, INK if not index else QUIET, bold=not index))
    return sheet
