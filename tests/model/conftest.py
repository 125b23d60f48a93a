"""Verdicts and digests of the tests stay out of the user's cache."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSTER_CACHE", str(tmp_path_factory.mktemp("muster-cache")))
        yield
