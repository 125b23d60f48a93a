"""Ctrl-C during a search: the first ends it with the best so far, the second ends the program."""

import os
import signal
import threading

import pytest

from muster.cli.interruptible import interruptible


def test_the_first_ctrl_c_is_told_to_the_search_and_the_second_is_final() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible("planning", as_json=False) as out_of_time:
        assert not out_of_time()
        os.kill(os.getpid(), signal.SIGINT)
        assert out_of_time()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_beside_the_main_thread_signals_are_left_alone() -> None:
    seen: list[bool] = []

    def work() -> None:
        with interruptible("planning", as_json=True) as out_of_time:
            out_of_time.say("still planning")
            seen.append(out_of_time())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
