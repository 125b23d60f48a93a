import asyncio
import os
import threading
from dataclasses import replace
from typing import Any, cast

import pytest

from muster.errors import ProtocolViolation
from muster.node.runners.base import Cheated
from muster.node.runners.serve.first import FirstStage
from muster.node.runners.serve.preparing import Preparing
from muster.serve.constrain import Constraints
from muster.serve.engine import Outputs
from muster.text.constraint import grammar_of_regex
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.generate import Prepare, Prepared, Submit
from tests.node.runners.test_serve import HEAD, SECOND, a_request, nowhere, runner, two_stages
from tests.serve.spelled import constraints

A = grammar_of_regex("a")


async def answered(preparing: Preparing, message: Prepare) -> Prepared:
    answer: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
    preparing.begin(message, answer.set_result)
    return await answer


def test_whoever_compiles_grammars_holds_locks_of_the_process_and_so_gives_way_to_nobody() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    class Shop:
        def reserve(self, number: int, grammar: str) -> None: ...

        def prepare(self, number: int, grammar: str) -> str:
            return str(priority())

        def close(self) -> None: ...

    async def scene() -> None:
        preparing = Preparing(1, cast(Constraints, Shop()))
        answer = await answered(preparing, Prepare(epoch=1, number=1, grammar=A))
        assert answer.problem == str(priority())
        preparing.close()

    asyncio.run(scene())


def test_what_is_forgotten_with_a_grammar_makes_room_for_it_and_must_have_been_there() -> None:
    async def scene() -> None:
        shop = constraints()
        preparing = Preparing(1, shop)
        await answered(preparing, Prepare(epoch=1, number=1, grammar=A))
        await answered(preparing, Prepare(epoch=1, number=2, grammar=A, forget=(1,)))
        assert shop.numbers == {2}
        with pytest.raises(ProtocolViolation, match="Grammar 1 is forgotten, which is not here"):
            preparing.begin(Prepare(epoch=1, number=3, grammar=A, forget=(2, 1)), lambda answer: None)
        preparing.close()

    asyncio.run(scene())


def test_the_first_stage_says_what_to_forget_once() -> None:
    async def scene() -> None:
        first = cast(FirstStage, runner(0, cast(Any, two_stages()[0]), None))
        told = first._preparations(Outputs(prepare=((8, "a"), (9, "b")), forget=(1, 2)))
        assert [(one.number, one.grammar, one.forget) for one in told] == [(8, "a", (1, 2)), (9, "b", ())]
        await first.close()

    asyncio.run(scene())


@pytest.mark.parametrize("answers", [False, True])
def test_a_last_stage_that_answers_no_grammar_is_reported_and_its_requests_go_elsewhere(
    answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.node.runners.serve.first.ANSWER_S", 0.3)

    async def scene() -> None:
        said: list[Any] = []

        def send(message: AnyMessage, payload: Any) -> None:
            if isinstance(message, Prepare) and answers:
                first.receive(SECOND, Prepared(epoch=1, number=message.number, problem="no"), b"", nowhere)

        first = cast(FirstStage, runner(0, cast(Any, two_stages()[0]), send))
        sampling = replace(a_request("r").sampling, grammar=A)
        submit = Submit(epoch=1, request=replace(a_request("r"), sampling=sampling))
        first.receive(HEAD, submit, b"", lambda message, payload: said.append(message))
        running = asyncio.create_task(first.run())
        done, _ = await asyncio.wait([running], timeout=0.9 if answers else 30)
        assert bool(done) is not answers
        if done:
            assert isinstance(running.exception(), Cheated)
        running.cancel()
        assert [(message.request_id, message.retry) for message in said] == [("r", not answers)]
        await first.close()

    asyncio.run(scene())
