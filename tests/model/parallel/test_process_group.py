"""Members in several processes add up and put together, and let go of each other at once."""

from collections.abc import Callable
from threading import Thread, Timer
from time import monotonic

import pytest
import torch

from muster.errors import LinkDown, ProtocolViolation
from muster.model.parallel.process_group import MAX_NOTE_BYTES, Notes, ProcessGroup


def in_threads(size: int, work: Callable[[ProcessGroup], None]) -> None:
    """Each member in a thread of its own, over sockets of this machine; what they note reaches all others."""
    everybody: list[Notes] = []
    errors: list[BaseException] = []

    def tell(rank: int) -> Callable[[str, bytes], None]:
        return lambda key, value: [one.written(key, value) for at, one in enumerate(everybody) if at != rank] and None

    def member(rank: int) -> None:
        try:
            work(ProcessGroup(everybody[rank], rank, size, "127.0.0.1"))
        except BaseException as error:
            errors.append(error)

    everybody += [Notes(tell(rank)) for rank in range(size)]
    threads = [Thread(target=member, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a member hangs"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_members_add_up_and_gather(dtype: torch.dtype) -> None:
    def work(group: ProcessGroup) -> None:
        x = torch.full((2, 3), group.rank + 1).to(dtype)
        assert torch.equal(group.sum(x), torch.full((2, 3), 6).to(dtype))
        assert [int(one[0, 0]) for one in group.gather(x)] == [1, 2, 3]
        assert int(x[0, 0]) == group.rank + 1, "what a member gives stays as it is"

    in_threads(3, work)


def test_a_member_that_waits_for_another_can_be_let_go_at_once() -> None:
    began = monotonic()

    def work(group: ProcessGroup) -> None:
        if group.rank == 0:
            Timer(0.2, group.abort).start()
            with pytest.raises(LinkDown):
                group.sum(torch.ones(3))
            with pytest.raises(LinkDown):
                group.sum(torch.ones(3))
            assert monotonic() - began < 10

    in_threads(2, work)


def test_members_that_do_not_find_each_other_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.model.parallel.process_group.GATHER_S", 0.3)
    with pytest.raises(LinkDown, match="do not reach each other"):
        ProcessGroup(Notes(lambda key, value: None), 0, 2, "127.0.0.1")


def test_notes_are_few_short_and_written_once() -> None:
    notes = Notes(lambda key, value: None)
    notes.written("0/1", b"here")
    notes.written("0/1", b"here")
    with pytest.raises(ProtocolViolation, match="two different"):
        notes.written("0/1", b"there")
    with pytest.raises(ProtocolViolation, match="more than members"):
        notes.written("0/2", b"x" * (MAX_NOTE_BYTES + 1))
