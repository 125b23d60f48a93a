"""The profit line, against the published figures."""

import pytest

from muster.cost.profit import bases, break_even_tokens_per_s, dollars_per_hour, dollars_per_million, sales
from muster.spec.fleets import shipped_fleet
from muster.spec.pool_file import parse_pool
from muster.spec.prices import fleet_prices, token_prices

ELSEWHERE = "[elsewhere]\nlatency_s = 0.01\nbandwidth_bytes_per_s = 1e8\n"


def test_the_published_break_evens_are_met() -> None:
    tokens = {price.name: price.per_million for price in token_prices()}
    fleets = {price.name: price.per_hour for price in fleet_prices()}
    published = {"mining-8x4090": 108, "ionet-8x4090": 1139, "runpod-8x4090": 1704, "gcp-8xl4": 4283}
    for fleet, speed in published.items():
        assert break_even_tokens_per_s(fleets[fleet], tokens["llama-70b-together"]) == pytest.approx(speed, abs=1)
    assert break_even_tokens_per_s(6.56 / 24, tokens["gpt-4o-mini-batch"]) == pytest.approx(253, abs=0.5)


def test_a_fleet_costs_the_sum_of_its_machines() -> None:
    assert dollars_per_hour(shipped_fleet("deserve-8xl4")) == pytest.approx(13.88)
    assert dollars_per_hour(parse_pool('[[machine]]\ndevice = "m2-ultra"')) is None, "no price is known"
    powered = '[[machine]]\ndevice = "t4"\nprice_per_hour = 0\n[market]\nelectricity_price_per_kwh = 0.3'
    assert dollars_per_hour(parse_pool(powered)) == pytest.approx(0.07 * 0.3)


def test_price_and_break_even_are_two_views_of_one_line() -> None:
    assert dollars_per_million(13.88, break_even_tokens_per_s(13.88, 0.9)) == pytest.approx(0.9)


def test_every_way_to_count_the_cost_of_deserves_cards_gives_its_published_break_even() -> None:
    pool = shipped_fleet("deserve-8x4090")
    per_hour = {basis.name: basis.per_hour for basis in bases(pool)}
    assert break_even_tokens_per_s(per_hour["these machines"], 0.3) == pytest.approx(253, abs=0.6), "slides, mining"
    published = {"mining-8x4090": 108, "ionet-8x4090": 1139, "runpod-8x4090": 1704}
    for name, speed in published.items():
        assert break_even_tokens_per_s(per_hour[name], 0.9) == pytest.approx(speed, abs=1)
    l4 = {basis.name: basis.per_hour for basis in bases(shipped_fleet("deserve-8xl4"))}
    assert break_even_tokens_per_s(l4["gcp-8xl4"], 0.9) == pytest.approx(4283, abs=1)


def test_a_published_fleet_is_scaled_to_the_pool_and_electricity_comes_on_top() -> None:
    half = parse_pool('[[machine]]\ndevice = "rtx-4090"\ndevices = 4\n[market]\nelectricity_price_per_kwh = 0.5')
    per_hour = {basis.name: basis.per_hour for basis in bases(half)}
    assert per_hour["mining-8x4090"] == pytest.approx(0.35 / 2 + 4 * 0.45 * 0.5)
    assert per_hour["community"] == pytest.approx(4 * 0.34 + 4 * 0.45 * 0.5)


def test_a_market_without_a_price_for_some_device_is_left_out() -> None:
    mixed = parse_pool('[[machine]]\ndevice = "rtx-4090"\n[[machine]]\ndevice = "m2-ultra"\n' + ELSEWHERE)
    assert bases(mixed) == ()
    assert [sale.name for sale in sales(mixed)] == [price.name for price in token_prices()]
    assert sales(shipped_fleet("deserve-8xl4"))[0].per_million == 0.9
