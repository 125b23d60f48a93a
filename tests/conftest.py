"""For all tests: verdicts and digests stay out of the user's cache, and no setting of the user's leaks in."""

from collections.abc import Iterator

import pytest
import structlog

SETTINGS = ("MUSTER_HEAD", "MUSTER_ADMIN_TOKEN", "MUSTER_API_KEY", "MUSTER_DATA_DIR", "MUSTER_DATABASE", "MUSTER_LOG")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSTER_CACHE", str(tmp_path_factory.mktemp("muster-cache")))
        for name in SETTINGS:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A test that runs a command sets up logging on a stderr that is gone when the test ends."""
    yield
    structlog.reset_defaults()
