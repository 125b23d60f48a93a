"""No two machines that the pool knows have one name, and each keeps its own."""

from hypothesis import given
from hypothesis import strategies as st

from muster.broker.events import BanNode, Disconnected, ForgetNode, NodeSeen, Remembered
from muster.broker.members.names import Names
from tests.broker.actors import SECRET, Stage, node_id


def test_the_second_machine_of_a_name_gets_a_number_and_keeps_it() -> None:
    names = Names({}, 64)
    assert [names.give(node, "vm") for node in ("a", "b", "c")] == ["vm", "vm-2", "vm-3"]
    assert [names.give(node, "vm") for node in ("c", "b", "a")] == ["vm-3", "vm-2", "vm"]
    names.forget("a")
    assert names.give("b", "vm") == "vm-2", "though vm is free now"
    assert names.give("d", "vm") == "vm"


def test_a_restarted_pool_calls_everybody_as_before() -> None:
    names = Names({"a": "vm", "b": "vm-2", "c": "vm"}, 64)  # two of one name are of an older version
    assert names.give("c", "vm") == "vm-3"
    assert names.give("b", "vm") == "vm-2"
    assert names.give("a", "vm") == "vm"


def test_a_machine_that_asks_for_another_name_gets_it() -> None:
    names = Names({}, 64)
    names.give("a", "vm")
    assert names.give("b", "vm") == "vm-2"
    assert names.give("b", "ada") == "ada"
    assert names.give("c", "vm-2") == "vm-2"
    assert names.give("b", "vm-2") == "vm-2-2"


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["x", "x-2", "x-2-2", "y" * 8, "y" * 6 + "-2", ""]))))
def test_names_stay_apart_and_short_whatever_is_asked_for(steps: list[tuple[int, str]]) -> None:
    names, given_names = Names({}, 8), dict[str, str]()
    for number, wanted in steps:
        node = f"node{number}"
        if wanted:
            name = given_names[node] = names.give(node, wanted)
            assert len(name) <= 8
            assert names.give(node, wanted) == name
        else:
            names.forget(node)
            given_names.pop(node, None)
        names.check()
        assert len(set(given_names.values())) == len(given_names)


def test_the_pool_tells_each_machine_and_the_store_what_it_is_called() -> None:
    stage = Stage()
    first, second = stage.dial(1, name="vm"), stage.dial(2, name="vm")
    assert (first.heard[0].name, second.heard[0].name) == ("vm", "vm-2")
    assert {member.name for member in stage.state.members} == {"vm", "vm-2"}
    saved = {record.node: record.name for record in stage.saved if isinstance(record, NodeSeen)}
    assert saved == {node_id(1): "vm", node_id(2): "vm-2"}
    stage.say(Disconnected(first.connection))
    stage.say(Disconnected(second.connection))
    assert stage.dial(2, name="vm").heard[0].name == "vm-2"
    again = Stage(Remembered(known=saved, secrets=[(SECRET, 1e12)], names=saved))
    assert [again.dial(number, name="vm").heard[0].name for number in (3, 2, 1)] == ["vm-3", "vm-2", "vm"]


def test_a_name_is_free_again_once_its_machine_is_forgotten_not_while_it_is_banned() -> None:
    stage = Stage()
    stage.dial(1, name="vm")
    stage.say(BanNode(node_id(1)))
    assert stage.dial(2, name="vm").heard[0].name == "vm-2"
    stage.say(ForgetNode(node_id(1)))
    assert stage.dial(3, name="vm").heard[0].name == "vm"
    stage.state.check(stage.now_s)
