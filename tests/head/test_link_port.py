"""What a head keeps from one start to the next."""

import socket
from dataclasses import replace
from pathlib import Path

import anyio

from muster.head.bind import bind_where_it_was
from muster.head.data_directory import last_link_port, remember_link_port
from muster.head.options import HeadOptions
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint

OPTIONS = HeadOptions(
    model="tiny",
    host="127.0.0.1",
    port=0,
    data_dir=Path(),
    local_worker=False,
    memory_bytes=None,
    name=None,
    region="home",
    scenario=None,
    dtype=None,
    device="cpu",
    max_context=None,
    min_nodes=1,
    link_port=0,
    relay=None,
    ticket_s=60.0,
)


def test_a_restarted_head_is_where_its_workers_dial_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", 0))
        port = str(holder.getsockname()[1])

    async def scene() -> None:
        options = replace(OPTIONS, data_dir=tmp_path)
        (tmp_path / "link.port").write_text(port)
        again = await bind_where_it_was(Identity.generate(), options.data_dir, options.link_port, options.relay)
        assert port_of(again) == port
        elsewhere = await bind_where_it_was(
            Identity.generate(), options.data_dir, options.link_port, options.relay
        )  # what is taken by now is no trouble
        assert port_of(elsewhere) != port
        remember_link_port(tmp_path, elsewhere.port)
        assert str(last_link_port(tmp_path)) == port_of(elsewhere)
        await again.close()
        await elsewhere.close()

    anyio.run(scene)


def port_of(endpoint: IrohEndpoint) -> str:
    return endpoint.address.direct[0].rpartition(":")[2]
