"""What a pool costs, and how fast it must be to pay. Knows nothing of how fast it is."""

from collections import Counter
from dataclasses import dataclass

from muster.spec.devices import MARKETS, find_device, prices_as_of
from muster.spec.pool import Pool
from muster.spec.prices import fleet_prices, token_prices


@dataclass(frozen=True, slots=True)
class Basis:
    """One way to say what machines cost in an hour: their own prices, a market's, or what they would earn otherwise."""

    name: str
    per_hour: float
    as_of: str
    """The date of a built-in price; empty for the pool's own."""


@dataclass(frozen=True, slots=True)
class Sale:
    """What a million generated tokens sell for."""

    name: str
    per_million: float
    as_of: str


def dollars_per_hour(pool: Pool) -> float | None:
    """Of all machines, with electricity where its price is known; None if the price of some machine is not."""
    prices = [node.price_per_hour for node in pool.nodes]
    if any(price is None for price in prices):
        return None
    return sum(price or 0.0 for price in prices) + electricity_per_hour(pool)


def electricity_per_hour(pool: Pool) -> float:
    """US dollars; 0 where its price is not known."""
    return (pool.market.electricity_price_per_kwh or 0.0) * watts(pool) / 1000


def watts(pool: Pool) -> float:
    """Of all machines, working, as far as it is known."""
    return sum(node.watts or 0.0 for node in pool.nodes)


def bases(pool: Pool) -> tuple[Basis, ...]:
    """The pool's own prices first, then each market that has a price for all of its devices, then published fleets."""
    own = dollars_per_hour(pool)
    found = [] if own is None else [Basis("these machines", own, "")]
    power = electricity_per_hour(pool)
    for market in MARKETS:
        price = _at_market(pool, market)
        if price is not None:
            found.append(Basis(market.replace("_", " "), price + power, prices_as_of()))
    devices = _devices(pool)
    for fleet in fleet_prices():
        if list(devices) == [fleet.device]:
            price = fleet.per_hour * devices[fleet.device] / fleet.devices
            found.append(Basis(fleet.name, price + power, fleet.as_of))
    return tuple(found)


def sales(pool: Pool) -> tuple[Sale, ...]:
    """The pool's own price of tokens first, then the built-in ones."""
    own = pool.market.token_price_per_million
    here = (Sale("this pool", own, ""),) if own else ()
    return here + tuple(Sale(price.name, price.per_million, price.as_of) for price in token_prices())


def _at_market(pool: Pool, market: str) -> float | None:
    total = 0.0
    for node in pool.nodes:
        facts = find_device(node.device.name)
        if facts is None or market not in facts.price_per_hour:
            return None
        total += facts.price_per_hour[market] * node.device_count
    return total


def _devices(pool: Pool) -> Counter[str]:
    """How many of each; a device that is not in the table counts by its own name."""
    counted: Counter[str] = Counter()
    for node in pool.nodes:
        facts = find_device(node.device.name)
        counted[facts.name if facts else node.device.name] += node.device_count
    return counted


def break_even_tokens_per_s(cost_per_hour: float, price_per_million: float) -> float:
    """Tokens a second at which sales equal cost (DeServe, section 3: cost per hour / price per token / 3600)."""
    return cost_per_hour / (price_per_million / 1e6) / 3600


def dollars_per_million(cost_per_hour: float, tokens_per_s: float) -> float:
    """What a million tokens cost at that speed."""
    return cost_per_hour / (tokens_per_s * 3600) * 1e6
