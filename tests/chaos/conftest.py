"""A pool of its own for every test, because none is left as it was found."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from muster.spec.request import Request
from muster.wire.messages.membership import StageVitals
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


def counted(pool: LivePool) -> list[list[StageVitals]]:
    """Rings at rest whose stages do not agree on how many steps went round: the broker would blame one of them."""
    rings: dict[int, list[StageVitals]] = {}
    for machine in pool.machines:
        for stage in machine.worker._stages.vitals(0).stages:
            rings.setdefault(stage.epoch, []).append(stage)
    return [ring for ring in rings.values() if len({count for one in ring for count in (one.received, one.sent)}) > 1]


@pytest.fixture
def pool(model_path: Path, tmp_path: Path) -> Iterator[LivePool]:
    with LivePool(tmp_path, str(model_path)) as pool:
        pool.until_serving(stages=4)
        yield pool
        pool.until_idle()
        assert counted(pool) == []
        pool.sessions.state.check()
        assert pool.sessions.state.live == {}
