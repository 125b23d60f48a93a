"""One four-stage pool of a small random model for the tests that leave it as they found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from openai import OpenAI
from transformers import PreTrainedModel

from tests.flows.live_pool import LivePool
from tests.flows.small_models import llama, save_small


@pytest.fixture(autouse=True, scope="session")
def _quiet_log() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def dense() -> PreTrainedModel:
    """The model in one piece, as `transformers` runs it."""
    return llama()


@pytest.fixture(scope="session")
def model_path(dense: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("models") / "small", dense)


@pytest.fixture(scope="session")
def shared_pool(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePool]:
    with LivePool(tmp_path_factory.mktemp("pool"), str(model_path), keys=True) as pool:
        pool.until_serving(stages=4)
        yield pool


@pytest.fixture
def pool(shared_pool: LivePool) -> Iterator[LivePool]:
    yield shared_pool
    shared_pool.until_idle()
    assert shared_pool.troubles == []


@pytest.fixture
def client(pool: LivePool) -> OpenAI:
    return pool.client(pool.key)
