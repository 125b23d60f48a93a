"""Asynchronous tests run on asyncio."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.broker.pool import Pool


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    pool = Pool(tmp_path)
    await pool.start_head()
    await pool.ticket()
    yield pool
    for node in pool.nodes:
        await node.leave()
    await pool.stop_head()
