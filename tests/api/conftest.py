"""One server for the tests that do not change it for others, and a fresh backend state for each."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from openai import OpenAI

from muster.text.tokenizer import Tokenizer, load_tokenizer
from tests.api.fake_backend import FakeBackend
from tests.api.served import Served
from tests.text.small_tokenizers import save, train_byte_level


@pytest.fixture(scope="session", autouse=True)
def _quiet_log() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = save(train_byte_level(), tmp_path_factory.mktemp("tokenizers") / "byte_level")
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def shared_server(tokenizer: Tokenizer) -> Iterator[Served]:
    with Served(FakeBackend(tokenizer)) as served:
        yield served


@pytest.fixture
def served(shared_server: Served) -> Iterator[Served]:
    shared_server.backend.__init__(shared_server.backend.tokenizer)  # type: ignore[misc]
    yield shared_server
    assert shared_server.backend.running == 0


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with served.client() as client:
        yield client
