"""Lets the head of a model be applied to a few tokens at a time, without touching its forward pass.

The logits of a whole prompt may be larger than the model: a hundred thousand tokens times as many entries of the
vocabulary. So the forward pass runs as often as there are pieces, but what comes before the head runs only once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel


@contextmanager
def body_once(model: PreTrainedModel) -> Iterator[None]:
    """Inside, all but the head runs in the first forward pass only; later ones get what came of it."""
    body = model.base_model
    forward = body.forward
    body.forward = _remembering(forward)
    try:
        yield
    finally:
        del body.forward
        if body.forward != forward:
            body.forward = forward


def has_body(model: PreTrainedModel) -> bool:
    """Whether the model is a body with a head on top, as nearly all are."""
    return model.base_model is not model


def _remembering(forward: Callable[..., Any]) -> Callable[..., Any]:
    outputs: list[Any] = []

    def remembered(*args: Any, **kwargs: Any) -> Any:
        if not outputs:
            outputs.append(forward(*args, **kwargs))
        return outputs[0]

    return remembered
