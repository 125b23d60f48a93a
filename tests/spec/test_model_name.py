"""One name for each model, however it is spelled."""

import pytest

from muster.spec.model_name import model_name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("tiny", "tiny"),
        ("owner/name", "owner/name"),
        ("owner/name/", "owner/name"),
        ("x/", "x"),
        ("./x", "x"),
        ("./x/", "x"),
        ("././x//", "x"),
        ("x/.", "x"),
        ("a//b/./c/", "a/b/c"),
        ("/models/x/", "/models/x"),
        ("~/x/", "~/x"),
        ("../x/", "../x"),
        (".hidden/", ".hidden"),
        (".", "."),
        ("/", "/"),
        ("", ""),
    ],
)
def test_a_name_has_no_slash_to_spare(written: str, name: str) -> None:
    assert model_name(written) == name
    assert model_name(name) == name
