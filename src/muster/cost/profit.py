"""What a pool costs, and how fast it must be to pay. Knows nothing of how fast it is."""

from muster.spec.pool import Pool


def dollars_per_hour(pool: Pool) -> float | None:
    """Of all machines, with electricity where its price is known; None if the price of some machine is not."""
    prices = [node.price_per_hour for node in pool.nodes]
    if any(price is None for price in prices):
        return None
    electricity = pool.market.electricity_price_per_kwh or 0.0
    watts = sum(node.watts or 0.0 for node in pool.nodes)
    return sum(price or 0.0 for price in prices) + electricity * watts / 1000


def break_even_tokens_per_s(cost_per_hour: float, price_per_million: float) -> float:
    """Tokens a second at which sales equal cost (DeServe, section 3: cost per hour / price per token / 3600)."""
    return cost_per_hour / (price_per_million / 1e6) / 3600


def dollars_per_million(cost_per_hour: float, tokens_per_s: float) -> float:
    """What a million tokens cost at that speed."""
    return cost_per_hour / (tokens_per_s * 3600) * 1e6
