"""A pool as a person writes it (TOML), read into a `Pool`. Knows no disk: it takes the text.

    name = "two-sites"
    links = "ten-cities"                   # optional: a table of links that comes with Muster

    [[machine]]
    name = "rack"                          # with count 2: rack-1 and rack-2
    device = "rtx-4090"                    # a name of the table of hardware facts
    count = 2                              # so many machines …
    devices = 4                            # … with so many devices each
    inside = { latency_s = 5e-6, bandwidth_bytes_per_s = 25e9 }      # between the devices of one machine
    region = "oregon"
    memory_bytes = 20e9                    # lent, of each device; likewise every other figure of the device
    market = "spot"                        # whose price: on_demand, spot, community, mining or none
    price_per_hour = 1.2                   # or the price itself, of the machine
    watts = 1500

    [[machine]]                            # described by its figures instead of by `device`
    name = "attic"
    kind = "cpu"
    memory_bytes = 8e9
    flops_per_s = { float32 = 2e11 }
    memory_bandwidth_bytes_per_s = 2e10
    region = "tokyo"

    [inside]                               # two machines of one region
    latency_s = 0.0005
    bandwidth_bytes_per_s = 125e6

    [elsewhere]                            # every other pair; without it, a pair that nothing describes is an error
    latency_s = 0.05
    bandwidth_bytes_per_s = 12.5e6

`[[link]]` and `[matrix]` are described in `link_table`. The most specific names win: machine, group (`rack`), region.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from muster.errors import InvalidRequest
from muster.spec.devices import DeviceFacts, device_facts
from muster.spec.link_table import Speeds, WrittenLink, WrittenMatrix, WrittenSpeed, link_table
from muster.spec.named_links import NamedLinks, Names
from muster.spec.pool import DEFAULT_LINK, Device, LinkSpeed, Market, Node, Pool
from muster.spec.ranges import Bytes, Dollars, Name, Rate, Watts, Word
from muster.spec.reserve import usable_bytes
from muster.spec.tiers import TierRates
from muster.spec.written import Table, parse, suggest, with_units
from muster.spec.written_tiers import WrittenTiers

MAX_MACHINES, MAX_DEVICES = 2_000, 16_000
"""A plan for as many takes about half a minute of processor time, and time grows with them."""
_PEER_LATENCY_S = 5e-7
"""Between two devices of a machine, where nothing is said: of the wire itself; what software adds is in `Constants`."""

DTYPES = ("float64", "float32", "tfloat32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8")
"""Of which a device may have a speed."""
_SHORT = {"memory": "memory_bytes", "host_memory": "host_memory_bytes", "disk": "disk_bytes"}
_FIGURES = (
    "flops_per_s",
    "memory_bandwidth_bytes_per_s",
    "host_bandwidth_bytes_per_s",
    "disk_bandwidth_bytes_per_s",
)


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise ValueError(f"there is no dtype {name!r}; {suggest(name, DTYPES).rstrip('.?')}")
    return name


Dtype = Annotated[str, AfterValidator(_dtype)]


class WrittenMachine(Table):
    """A `[[machine]]` table."""

    name: Name | None = None
    """What to call it, in links, pins and tables; else the device's name."""
    device: str | None = None
    """A name of the table of devices. Without it, give `kind` and the figures."""
    count: Annotated[int, Field(ge=1, le=MAX_MACHINES)] = 1
    """So many machines alike: `rack` with 2 is `rack-1` and `rack-2`."""
    devices: Annotated[int, Field(ge=1, le=1024)] = 1
    """In each machine, all alike; those of one machine can share the layers of a stage."""
    region: Word = ""
    """Where it stands, in your own words."""
    inside: WrittenSpeed | None = None
    """Between two devices of one machine; else what the table of devices says."""
    memory_bytes: Bytes | None = None
    """Lent of each device; else what the device has, less a reserve: 3 % and at least 384 MiB, of a Mac a quarter. Or
    `memory = "20GB"`."""
    host_memory_bytes: Bytes | None = None
    """Lent of the host's memory beside each device, for cache that is swapped, and for weights and cache of stages
    larger than it; else none. Or `host_memory = "64GB"`."""
    disk_bytes: Bytes | None = None
    """Lent of a disk beside each device, for what neither memory holds; else none. Or `disk = "1.5TB"`."""
    tiers: WrittenTiers | None = None
    """Rates between device, host memory and disk; what is not said is derived from the device."""
    flops_per_s: dict[Dtype, Rate] | None = None
    """Of each device by dtype (`float32`, `bfloat16`, …); else the device's, else a slow laptop's."""
    memory_bandwidth_bytes_per_s: Rate | None = None
    """Of each device; else as above."""
    host_bandwidth_bytes_per_s: Rate | None = None
    """From host memory to each device; else the device's."""
    disk_bandwidth_bytes_per_s: Rate | None = None
    """Reading; else the device's."""
    market: Literal["on_demand", "spot", "community", "mining", "none"] | None = None
    """Whose price per device counts; else `on_demand`, where there is one."""
    price_per_hour: Dollars | None = None
    """US dollars for the whole machine, instead of a market's price."""
    watts: Watts | None = None
    """Of the machine at work; else the devices' own."""
    kind: Literal["cpu", "cuda", "mps"] | None = None
    """Of a device that is not in the table."""
    title: str | None = None
    """What such a device is called."""
    id: Name | None = None
    """The key of a machine that has joined a pool; `--save-pool` writes it."""

    @model_validator(mode="before")
    @classmethod
    def _long(cls, written: object) -> object:
        return with_units(written, _SHORT)

    @model_validator(mode="after")
    def _check(self) -> "WrittenMachine":
        if self.device is None and (self.kind is None or self.memory_bytes is None):
            raise ValueError("it has neither a device nor a kind with memory_bytes")
        if self.device is not None and (self.kind or self.title):
            raise ValueError("kind and title belong to machines without device")
        if self.market not in (None, "none") and self.device is None:
            raise ValueError("only a device of the table has a market price; write price_per_hour")
        if self.market is not None and self.price_per_hour is not None:
            raise ValueError("market and price_per_hour are two prices")
        if self.id is not None and self.count > 1:
            raise ValueError("an id names one machine, so count must be 1")
        return self


class WrittenMarket(Table):
    """The `[market]` table."""

    token_price_per_million: Dollars | None = None
    """US dollars that a million generated tokens sell for."""
    electricity_price_per_kwh: Dollars | None = None
    """US dollars."""


class PoolFile(Table):
    """A whole TOML file."""

    name: str = ""
    """What to call the pool."""
    description: str = ""
    """For people."""
    source: str = ""
    """Where the figures come from, for people."""
    links: str | None = None
    """A table of links that comes with Muster: `ten-cities`."""
    machine: tuple[WrittenMachine, ...] = ()
    """At least one."""
    inside: WrittenSpeed | None = None
    """Two machines of one region that nothing more particular describes."""
    elsewhere: WrittenSpeed | None = None
    """Every other pair; without it, a pair that nothing describes is an error."""
    link: tuple[WrittenLink, ...] = ()
    """Pairs."""
    matrix: WrittenMatrix | None = None
    """All pairs at once."""
    market: WrittenMarket = WrittenMarket()
    """What tokens sell for, and what electricity costs."""

    @model_validator(mode="after")
    def _check(self) -> "PoolFile":
        pairs = [frozenset(link.between) for link in self.link]
        if len(set(pairs)) < len(pairs):
            raise ValueError("two [[link]] tables join the same two")
        machines = sum(machine.count for machine in self.machine)
        devices = sum(machine.count * machine.devices for machine in self.machine)
        for count, most, what in ((machines, MAX_MACHINES, "machines"), (devices, MAX_DEVICES, "devices")):
            if count > most:
                raise ValueError(f"{count:,} {what} are more than the {most:,} that one plan is made for; take a part")
        return self


def parse_pool(text: str) -> Pool:
    """Raises `InvalidRequest` that names the line, the key, the device or the pair that is wrong."""
    written = parse(text, PoolFile, "The pool file")
    if not written.machine:
        raise InvalidRequest("The pool file has no machine; add a [[machine]] table for each kind.", "machine")
    names = _names_of(written.machine)
    nodes: dict[str, Node] = {}
    all_names: dict[str, Names] = {}
    for machine, group in zip(written.machine, names, strict=True):
        made = [_node(machine, name) for name in _members(machine, group)]
        for node in made:
            if node.id in nodes:
                raise InvalidRequest(f"Two machines of the pool file are called {node.id!r}; rename one.", "name")
            nodes[node.id] = node
            all_names[node.id] = (node.id, node.name, group, node.region)
    table = _table(written, all_names)
    inside = written.inside.speed() if written.inside else None
    links = NamedLinks(all_names, table, inside)
    if written.elsewhere is None:
        _check_complete(links, nodes)
    return Pool(
        nodes=tuple(nodes.values()),
        links=links,
        default_link=written.elsewhere.speed() if written.elsewhere else DEFAULT_LINK,
        name=written.name,
        market=Market(**written.market.model_dump()),
    )


def _names_of(machines: Sequence[WrittenMachine]) -> list[str]:
    """The name of each table's machines; of tables without one, the device and, where that is not enough, a number."""
    bare = [machine.name if machine.name is not None else machine.device or str(machine.kind) for machine in machines]
    unnamed = Counter(name for machine, name in zip(machines, bare, strict=True) if machine.name is None)
    seen: Counter[str] = Counter()
    names = []
    for machine, name in zip(machines, bare, strict=True):
        if machine.name is None and unnamed[name] > 1:
            seen[name] += 1
            name = f"{name}-{chr(96 + seen[name])}" if unnamed[name] <= 26 else f"{name}-group{seen[name]}"
        names.append(name)
    return names


def _members(machine: WrittenMachine, group: str) -> list[str]:
    return [group] if machine.count == 1 else [f"{group}-{number}" for number in range(1, machine.count + 1)]


def _node(machine: WrittenMachine, name: str) -> Node:
    facts = device_facts(machine.device) if machine.device is not None else None
    return Node(
        id=machine.id or name,
        name=name,
        region=machine.region,
        device=_device(machine, facts),
        device_count=machine.devices,
        inside=_inside(machine, facts),
        price_per_hour=_price(machine, facts),
        watts=machine.watts if machine.watts is not None or facts is None else facts.watts * machine.devices,
    )


def _device(machine: WrittenMachine, facts: DeviceFacts | None) -> Device:
    base = facts.device() if facts else Device(kind=str(machine.kind), name=machine.title or "", memory_bytes=0)
    lent = usable_bytes(base.kind, base.memory_bytes) if facts else 0
    memory = lent if machine.memory_bytes is None else int(machine.memory_bytes)
    said = {figure: getattr(machine, figure) for figure in _FIGURES}
    figures: dict[str, Any] = {
        figure: getattr(base, figure) if value is None else value for figure, value in said.items()
    }
    return Device(
        kind=base.kind,
        name=base.name,
        memory_bytes=memory,
        host_memory_bytes=int(machine.host_memory_bytes or 0),
        disk_bytes=int(machine.disk_bytes or 0),
        tiers=TierRates(**machine.tiers.rates()) if machine.tiers else None,
        **figures,
    )


def _inside(machine: WrittenMachine, facts: DeviceFacts | None) -> LinkSpeed | None:
    if machine.inside is not None:
        return machine.inside.speed()
    if facts is None or machine.devices == 1:
        return None
    return LinkSpeed(_PEER_LATENCY_S, facts.peer_bandwidth_bytes_per_s)


def _price(machine: WrittenMachine, facts: DeviceFacts | None) -> float | None:
    if machine.price_per_hour is not None or machine.market == "none" or facts is None:
        return machine.price_per_hour
    if machine.market is None:
        price = facts.price_per_hour.get("on_demand")
        return None if price is None else price * machine.devices
    return facts.price(machine.market) * machine.devices


def _table(written: PoolFile, names: dict[str, Names]) -> Speeds:
    """All that is written, the more particular last. Raises `InvalidRequest` on a name that nothing bears."""
    table: Speeds = {}
    for speeds in (written.matrix.speeds() if written.matrix else {}, *(link.speeds() for link in written.link)):
        table.update(speeds)
    known = {name for all_names in names.values() for name in all_names} - {""}
    for name in {name for pair in table for name in pair} - known:
        reason = f"A link names {name!r}, which is neither a region nor a machine of the pool file; "
        raise InvalidRequest(reason + suggest(name, known), "link")
    return {**(link_table(written.links).matrix.speeds() if written.links else {}), **table}


def _check_complete(links: NamedLinks, nodes: dict[str, Node]) -> None:
    """Raise `InvalidRequest` naming a pair of machines that nothing describes."""
    at_place: dict[int, list[str]] = {}
    for node in nodes:
        at_place.setdefault(links.place_of(node), []).append(node)
    for source, sources in at_place.items():
        for target, targets in at_place.items():
            if source == target and len(sources) == 1:
                continue
            if links.between_places(source, target) is None:
                raise _missing(nodes[sources[0]], nodes[targets[-1]])


def _missing(source: Node, target: Node) -> InvalidRequest:
    where = [f"{node.name} ({node.region})" if node.region else node.name for node in (source, target)]
    remedy = "[inside]" if source.region == target.region != "" else "a [[link]] between them or their regions"
    reason = f"Nothing says how {where[0]} reaches {where[1]}; add {remedy}, or [elsewhere] for every other pair."
    return InvalidRequest(reason, "link")
