"""What docs/api-fields.md says of every field of every route is so."""

import sys
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from muster.api.fields import all_of
from muster.api.ignored import HEADER, places
from tests.api.served import Served

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tools"))
from api_field_pages import bodies

HELLO = [{"role": "user", "content": "Hello"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "x"},
    "/v1/messages": {"messages": HELLO},
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/responses": {"input": "x"},
    "/api/chat": {"model": "fake", "messages": HELLO},
    "/api/generate": {"model": "fake", "prompt": "x"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
}
REFUSED = [(path, name) for path, body in bodies().items() for name in all_of(body, "unsupported")]
IDLE = [(path, sorted(all_of(body, "without_effect"))) for path, body in bodies().items()]


def some_value(path: str, name: str) -> Any:
    """That no field has for its harmless one."""
    kinds = get_args(bodies()[path].model_fields[name].annotation) or (Any,)
    kind = next(kind for kind in kinds if kind is not NoneType)
    return {str: "surely not", int: 7, float: 0.123, bool: True}.get(kind, {"surely": "not"})


def test_the_routes_are_those_of_this_test() -> None:
    assert set(bodies()) == set(GOOD)


@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_what_is_said_to_be_refused_is_refused_by_name(served: Served, path: str, name: str) -> None:
    answer = served.http.post(path, json=GOOD[path] | {name: some_value(path, name)})
    assert answer.status_code == 400, answer.text
    assert f"'{name}'" in answer.text
    assert served.backend.requests == []


@pytest.mark.parametrize(("path", "names"), IDLE)
def test_what_is_said_to_have_no_effect_is_accepted_in_silence(served: Served, path: str, names: list[str]) -> None:
    answer = served.http.post(path, json=GOOD[path] | dict.fromkeys(names))
    assert answer.status_code == 200, answer.text
    assert HEADER not in answer.headers


def test_a_field_of_any_type_says_what_becomes_of_it() -> None:
    silent: list[tuple[str, str]] = []
    for body in bodies().values():
        for model in places(body):
            told = {*all_of(model, "unsupported"), *all_of(model, "without_effect")}
            silent += [(model.__name__, name) for name in _of_any_type(model) if name not in told]
    assert silent == []


def _of_any_type(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.annotation is Any and not field.description]
