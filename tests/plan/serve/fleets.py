"""Fleets with several devices in a machine, at random and by hand."""

from dataclasses import replace

from hypothesis import strategies as st

from muster.plan.serve.options import ServeOptions
from muster.spec.pool import LinkSpeed
from muster.spec.workload import ServeWorkload
from tests.plan.fleets import node, pool

WORK = ServeWorkload(prompt_tokens=128, output_tokens=32)
QUICK = ServeOptions(evaluations=40, max_batch=32, max_microbatches=16)
FAR = LinkSpeed(0.02, 1.25e7)


def machine(name, memory_mib=1000.0, speed=1.0, devices=1, region="here", price=1.0, kind="cuda", host_mib=4000):
    one = node(name, memory_mib, speed, region)
    device = replace(one.device, kind=kind, host_bandwidth_bytes_per_s=1e10, host_memory_bytes=host_mib * 2**20)
    inside = LinkSpeed(1e-5, 1e10) if devices > 1 else None
    return replace(one, device=device, device_count=devices, inside=inside, price_per_hour=price)


@st.composite
def fleets(draw, largest=4, most_devices=3):
    count = draw(st.integers(1, largest))
    kinds = st.tuples(
        st.integers(150, 1200),
        st.sampled_from([0.3, 1.0, 1.0, 4.0]),
        st.integers(1, most_devices),
        st.sampled_from(["here", "there"]),
        st.sampled_from([0.2, 1.0, 3.0]),
        st.sampled_from(["cuda", "cpu"]),
        st.sampled_from([0, 100, 4000]),
    )
    nodes = [machine(f"n{i}", *draw(kinds)) for i in range(count)]
    names = [n.id for n in nodes]
    speeds = st.sampled_from([LinkSpeed(0.001, 1e9), LinkSpeed(0.02, 1e7), LinkSpeed(0.08, 1e6)])
    links = {(a, b): draw(speeds) for a in names for b in names if a != b}
    return pool(*nodes, links=links)
