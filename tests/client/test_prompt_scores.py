"""Scores of a prompt survive a repair: none lost, none twice, none that nobody asked for."""

import numpy as np
import pytest

from muster.client.events import CancelAt, Deliver, Progressed, RouteDown, RouteUp, Started, SubmitTo
from muster.client.state import ClientState
from muster.errors import ProtocolViolation
from muster.spec.request import Finish, Progress, Request
from muster.spec.sampling import Sampling
from muster.spec.scores import PromptScores
from tests.client.test_state import a_request, tokens


def scores(first: int, *logprobs: float) -> PromptScores:
    none = np.zeros((len(logprobs), 0))
    ranks = np.ones(len(logprobs), dtype=np.int32)
    return PromptScores.pack(first, np.array(logprobs, dtype=np.float32), ranks, none.astype(np.int32), none)


def scoring(max_tokens: int = 1) -> tuple[ClientState, Request]:
    state = ClientState()
    request = Request("r", (1, 2, 3, 4, 5), Sampling(max_tokens=max_tokens, prompt_logprobs=0))
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(request), 0.0)
    return state, request


def test_scores_are_delivered_once_and_go_along_to_the_repaired_pipeline() -> None:
    state, _ = scoring()
    state.handle(Progressed(1, Progress("r", 0, (), scores=scores(1, -1, -2))), 0.1)
    state.handle(RouteDown(1), 0.2)
    (command,) = state.handle(RouteUp(2), 0.3)
    assert isinstance(command, SubmitTo)
    assert command.request.scored == 2
    (delivered,) = state.handle(Progressed(2, Progress("r", 0, (), scores=scores(2, -2, -3))), 0.4)
    assert isinstance(delivered, Deliver)
    assert delivered.progress.scores == scores(3, -3)
    assert state.handle(Progressed(2, Progress("r", 0, (), scores=scores(2, -2, -3))), 0.5) == []
    state.check()
    (last,) = state.handle(Progressed(2, Progress("r", 0, tokens(7), Finish.LENGTH, scores(4, -4))), 0.6)
    assert isinstance(last, Deliver)
    assert state.live == {}


def test_lost_scores_are_asked_for_again() -> None:
    state, _ = scoring()
    commands = state.handle(Progressed(1, Progress("r", 0, (), scores=scores(2, -2))), 0.1)
    assert [type(command) for command in commands] == [CancelAt, SubmitTo]


@pytest.mark.parametrize(
    "progress",
    [
        Progress("r", 0, tokens(7), Finish.LENGTH),
        Progress("r", 0, (), Finish.LENGTH, scores(1, -1)),
        Progress("r", 0, tokens(7), Finish.LENGTH, scores(1, -1)),
        Progress("r", 0, (), scores=scores(0, -1)),
        Progress("r", 0, (), scores=scores(1, 1.0)),
        Progress("r", 0, (), scores=scores(1, -1, -2, -3, -4, -5)),
        Progress("r", 0, (), scores=PromptScores(1, -1, b"")),
        Progress("r", 0, (), scores=PromptScores(1, 0, b"x" * 9)),
        Progress("r", 0, (), scores=PromptScores(1, 0, b"")),
    ],
)
def test_scores_that_were_not_asked_for_or_lack_are_a_violation(progress: Progress) -> None:
    state, _ = scoring()
    with pytest.raises(ProtocolViolation):
        state.handle(Progressed(1, progress), 0.1)


def test_scores_for_a_request_that_wants_none_are_a_violation() -> None:
    state = ClientState()
    state.handle(RouteUp(1), 0.0)
    state.handle(Started(a_request()), 0.0)
    with pytest.raises(ProtocolViolation):
        state.handle(Progressed(1, Progress("r", 0, (), scores=scores(1, -1))), 0.1)
