"""For all tests: verdicts and digests stay out of the user's cache, and no setting of the user's leaks in."""

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

from tests.examples import PROFILES

SETTINGS = ("MUSTER_HEAD", "MUSTER_ADMIN_TOKEN", "MUSTER_API_KEY", "MUSTER_DATA_DIR", "MUSTER_DATABASE", "MUSTER_LOG")

# No deadline of a single example: the machine is busy with other tests.
for name, number in PROFILES.items():
    settings.register_profile(name, max_examples=number, deadline=None)
settings.load_profile("usual")


@pytest.fixture(autouse=True, scope="session")
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # The processes of pytest-xdist share what one of them has found out: each of their folders is in one folder.
        ours = tmp_path_factory.getbasetemp()
        patch.setenv(
            "MUSTER_CACHE", str((ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "muster-cache")
        )
        # No test speaks TLS, and reading the certificates of the world takes 50 ms for every client of HTTP.
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("no-certificates")))
        for name in SETTINGS:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A test that runs a command sets up logging on a stderr that is gone when the test ends."""
    yield
    structlog.reset_defaults()
