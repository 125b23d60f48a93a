import pytest

from muster.errors import InvalidRequest
from muster.spec.scenario import parse_scenario, scenario_names, shipped_scenario

TWO_TOWNS = """
name = "two-towns"
regions = ["north", "south"]

[[link]]
between = ["north", "south"]
latency_s = 0.040
bandwidth_bytes_per_s = 12.5e6
back_bandwidth_bytes_per_s = 2.5e6

[[cut]]
between = ["south", "north"]
start_s = 10
end_s = 15
"""


def test_each_direction_of_a_link_has_its_own_bandwidth() -> None:
    scenario = parse_scenario(TWO_TOWNS)
    assert scenario.between("north", "south").bandwidth_bytes_per_s == 12.5e6
    assert scenario.between("south", "north").bandwidth_bytes_per_s == 2.5e6
    assert scenario.between("south", "north").latency_s == 0.040
    assert scenario.between("north", "north") == scenario.inside
    assert scenario.between(None, "north") == scenario.between(None, None) == scenario.elsewhere


def test_a_cut_has_a_beginning_and_an_end() -> None:
    scenario = parse_scenario(TWO_TOWNS)
    assert [scenario.is_cut("north", "south", at_s) for at_s in (9.9, 10.0, 14.9, 15.0)] == [False, True, True, False]
    assert not scenario.is_cut("north", "north", 12.0)
    assert not scenario.is_cut(None, "south", 12.0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("latency_s", "latency_ms", r"unknown key 'latency_ms' in \[\[link\]\] 1; remove it"),
        ("latency_s = 0.040", "latency_s = 0.040\nlatncy = 1", r"unknown key 'latncy' in \[\[link\]\] 1"),
        ("0.040", "-1", r"'latency_s' in \[\[link\]\] 1 must be 0 or more, not -1"),
        ("0.040", "nan", r"must be a finite number, not nan"),
        ("12.5e6", "0", r"'bandwidth_bytes_per_s' in \[\[link\]\] 1 must be more than 0"),
        ("12.5e6", '"fast"', r"must be a number, not 'fast'"),
        ("0.040", "true", r"must be a number, not true"),
        ("end_s = 15", "end_s = 5", "ends before it starts"),
        ('["south", "north"]', '["south", "moon"]', "'moon' is not among the regions"),
        ('["south", "north"]', '["south"]', r"lacks entry 2 of 'between' in \[\[cut\]\] 1"),
        ('"north", "south"]\n\n', '"north", "north", "south"]\n\n', "listed twice"),
        ("[[cut]]", "[[cut", "not valid TOML: .*line 11"),
    ],
)
def test_a_mistake_in_the_file_is_named(old: str, new: str, said: str) -> None:
    assert old in TWO_TOWNS
    with pytest.raises(InvalidRequest, match=said) as caught:
        parse_scenario(TWO_TOWNS.replace(old, new, 1))
    assert ";" in str(caught.value)


@pytest.mark.parametrize("name", scenario_names())
def test_a_shipped_scenario_parses_and_names_its_source(name: str) -> None:
    scenario = shipped_scenario(name)
    assert scenario.name == name
    assert scenario.source
    assert scenario.description


def test_the_demo_has_three_regions_20_to_80_ms_apart() -> None:
    scenario = shipped_scenario("three-regions-20-80ms")
    assert len(scenario.regions) == 3
    for link in scenario.link:
        assert 0.020 <= link.latency_s <= 0.080


def test_an_unknown_scenario_is_answered_with_those_that_exist() -> None:
    with pytest.raises(InvalidRequest, match="choose one of home-uplinks, "):
        shipped_scenario("moonbase")
