"""The quick planner's tables against the cost model, range by range."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.measured import constants_for
from muster.cost.memory import stage_bytes
from muster.cost.pace import IDEAL, TYPICAL, seconds
from muster.cost.transfer import transfer_seconds, wire_seconds
from muster.cost.work import decode
from muster.plan.quick.tables import PlanOptions, Tables
from muster.spec.pool import LinkSpeed
from tests.plan.fleets import node, pool, shape

sizes = st.lists(st.sampled_from([0.2, 1.0, 1.0, 2.5]), min_size=1, max_size=9)
machines = st.lists(st.tuples(st.integers(100, 900), st.floats(0.001, 100.0)), min_size=1, max_size=4)
constants = st.sampled_from([IDEAL, TYPICAL, constants_for("cpu"), replace(TYPICAL, overlap=0.3, message_s=0.02)])
links = st.builds(LinkSpeed, st.sampled_from([0.0, 0.02]), st.sampled_from([0.0, 1e6, 1e9]))


@given(sizes, machines, constants, st.integers(1, 64), st.integers(1, 4096), links, st.integers(0, 2000))
def test_every_range_on_every_machine_takes_and_needs_what_the_cost_model_says(
    sizes, machines, some, batch, context, link, pages
):
    model = shape(sizes=sizes)
    fleet = replace(pool(*(node(f"n{i}", *machine) for i, machine in enumerate(machines))), default_link=link)
    options = PlanOptions(batch=batch, context=context, constants=some)
    tables = Tables(model, fleet.nodes, fleet, options)
    for first in range(model.num_layers):
        for last in range(first + 1, model.num_layers + 1):
            work = decode(model, first, last, batch, context)
            wanted_s = [seconds(work, one.device, model.dtype, some) for one in fleet.nodes]
            assert tables.seconds[:, first, last] == pytest.approx(wanted_s, rel=1e-9)
            wanted_bytes = stage_bytes(model, first, last, pages * options.page_size, options.workspace)
            assert set(tables.need(pages)[:, first, last]) == {wanted_bytes}
    if len(machines) > 1:
        nbytes = batch * model.hidden_size * 2
        assert tables.wire[0, 1] == wire_seconds(link, nbytes)
        assert tables.latency[0, 1] == transfer_seconds(link, nbytes, some.message_s)
