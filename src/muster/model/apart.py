"""A process of our own for what only torch can say of a model: a head then never has torch in its memory.

It is started for the first question, answers one after the other, and ends with `end` or with this process. Its errors
are raised here as they were raised there. Where torch is in memory already, as on a head that computes, nothing is
started. Runs nothing of a stranger's but sizes and names; limits are those of the check itself. Knows no pool.
"""

import os
import subprocess
import sys
from pathlib import Path
from threading import Lock

import msgspec

from muster.errors import InvalidRequest, MachineTrouble, MusterError, from_code
from muster.spec.few_bits import AS_STORED, FewBits
from muster.spec.model_shape import ModelShape
from muster.text.pipe import read_frame, write_frame

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> dtype as the file names it, shape."""


class Shape(msgspec.Struct, frozen=True, tag=True):
    """Does the architecture come out right, are its tensors all there, and what does it cost?"""

    config_json: str
    tensors: Tensors
    name: str
    dtype: str
    few_bits: FewBits = AS_STORED


class AsStored(msgspec.Struct, frozen=True, tag=True):
    """What config.json would say of the tensors in this folder."""

    folder: str


class Checked(msgspec.Struct, frozen=True, tag=True):
    said: ModelShape | str


class CheckFailed(msgspec.Struct, frozen=True, tag=True):
    """A `MusterError`, or whatever else went wrong (no code)."""

    code: str
    reason: str
    parameter: str | None = None


Question = Shape | AsStored
_questions = msgspec.msgpack.Decoder(Question)
_replies = msgspec.msgpack.Decoder(Checked | CheckFailed)


def ask(question: Question) -> ModelShape | str:
    """Raises what the answer raises, and `MachineTrouble` where the process ends before it has answered."""
    reply = _answer(question) if "torch" in sys.modules else _process.ask(question)
    if isinstance(reply, Checked):
        return reply.said
    raise InvalidRequest(reply.reason, reply.parameter) if reply.parameter else from_code(reply.code, reply.reason)


def end() -> None:
    """Nothing more is asked for now; whoever still waits for an answer gets `MachineTrouble`."""
    _process.end()


def _answer(question: Question) -> Checked | CheckFailed:
    from muster.model.checkpoint import as_stored
    from muster.model.conformance import check_conformance
    from muster.model.quantized.layouts.view import plainly
    from muster.model.shape import check_tensors, shape_of
    from muster.model.weights import open_directory

    try:
        if isinstance(question, AsStored):
            return Checked(as_stored(plainly(open_directory(Path(question.folder)))))
        check_conformance(question.config_json)  # first, as whatever reads the configuration trips over it
        check_tensors(question.config_json, question.tensors)
        return Checked(shape_of(question.config_json, question.name, question.dtype, question.few_bits))
    except MusterError as error:
        return CheckFailed(error.code, str(error), getattr(error, "parameter", None))


class _Process:
    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None
        self._turn = Lock()

    def ask(self, question: Question) -> Checked | CheckFailed:
        with self._turn:
            running = self._running = self._running or _start()
            assert running.stdin is not None
            assert running.stdout is not None
            try:
                write_frame(running.stdin.fileno(), msgspec.msgpack.encode(question))
                reply: Checked | CheckFailed = _replies.decode(read_frame(running.stdout.fileno()))
                return reply
            except (OSError, EOFError) as error:
                self._close()
                raise MachineTrouble(
                    f"The process that checks the model ended before it was done (status {running.returncode}); see "
                    "whether the machine has run out of memory, and start again."
                ) from error

    def end(self) -> None:
        """Also in the middle of an answer, which is of use to nobody any more."""
        if (running := self._running) is not None:
            running.kill()
        with self._turn:
            self._close()

    def _close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.kill()
            running.wait()
            for pipe in (running.stdin, running.stdout):
                assert pipe is not None
                pipe.close()


_process = _Process()


def _start() -> "subprocess.Popen[bytes]":
    # -P: a file in the current folder must not pass for a module.
    command = [sys.executable, "-P", "-m", __name__]
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "MALLOC_ARENA_MAX": "1"}
    # Of its own session: Ctrl-C goes to the whole terminal, and who asked decides what ends.
    return subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=quiet, start_new_session=True
    )


def main() -> None:
    replies = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not speak for us
    while True:
        try:
            question = _questions.decode(read_frame(0))
            write_frame(replies, msgspec.msgpack.encode(_answer(question)))
        except (EOFError, BrokenPipeError):
            return  # who asked is gone


if __name__ == "__main__":
    main()
