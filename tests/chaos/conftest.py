"""A pool of its own for every test, because none is left as it was found."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from muster.spec.request import Request
from tests.chaos.streams import requests, undisturbed
from tests.flows.live_pool import LivePool
from tests.flows.small_models import llama, save_small


@pytest.fixture(autouse=True, scope="session")
def _quiet_log() -> Iterator[None]:
    before = structlog.get_config()
    if not os.environ.get("MUSTER_LOG"):
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("models") / "small", llama())


@pytest.fixture(scope="session")
def wanted() -> list[Request]:
    return requests(vocab_size=332)


@pytest.fixture(scope="session")
def expected(model_path: Path, wanted: list[Request]) -> list[list[int]]:
    """The tokens of every stream if nothing happens."""
    return list(undisturbed(model_path, 8, wanted).values())


@pytest.fixture
def pool(model_path: Path, tmp_path: Path) -> Iterator[LivePool]:
    with LivePool(tmp_path, str(model_path)) as pool:
        pool.until_serving(stages=4)
        yield pool
        pool.until_idle()
        pool.sessions.state.check()
        assert pool.sessions.state.live == {}
