"""Building a model changes settings of the whole process; running one depends on them. Who may do what, and when.

While `transformers` builds a model in bfloat16, that is the default dtype of every thread, and `torch.nn.init` does
nothing. So at any time either any number of threads run models, or one thread builds one. Knows nothing of models.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, local

_changed = Condition()
_runners = 0
_builders = 0
"""0 or 1; from 1 on no thread begins to run a model, so that a builder need not wait for ever."""


class _Held(local):
    """What this thread is inside of, so that blocks may be nested."""

    running = False
    building = False


_held = _Held()


@contextmanager
def running(beside: bool = False) -> Iterator[None]:
    """The settings of the process stay as they are inside. Waits while another thread builds.

    `beside`: a part of a step that other threads are in the middle of, and that waits for this part. So it does not
    wait for a thread that itself waits for that step to end before it builds.
    """
    global _runners
    if _held.running or _held.building:
        yield
        return
    with _changed:
        _changed.wait_for(lambda: _builders == 0 or (beside and _runners > 0))
        _runners += 1
    _held.running = True
    try:
        yield
    finally:
        _held.running = False
        with _changed:
            _runners -= 1
            _changed.notify_all()


@contextmanager
def building() -> Iterator[None]:
    """No other thread builds or runs a model inside. Must not begin inside `running`."""
    global _builders
    assert not _held.running, "a model is built in the middle of a step"
    if _held.building:
        yield
        return
    with _changed:
        _changed.wait_for(lambda: _builders == 0)
        _builders = 1
        _changed.wait_for(lambda: _runners == 0)
    _held.building = True
    try:
        yield
    finally:
        _held.building = False
        with _changed:
            _builders = 0
            _changed.notify_all()
