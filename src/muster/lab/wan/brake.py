"""Slows a host down: its programs are stopped for a share of every period. A process of its own.

    python -m muster.lab.wan.brake NAMESPACE FACTOR KEEPER KEEPER_STARTED FILE

Goes on in the background, with its process id in FILE, until SIGTERM or until the keeper is
gone, and leaves the programs running. A program is not asked and sees nothing of it but the time that it lacks, on
whatever number of cores.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from muster.lab.wan.programs import processes, send, started_at

PERIOD_S = 0.02
LOOK_S = 0.5
"""Between two looks for programs that have been started since."""


def brake(inode: int, factor: float, keeper: int, keeper_started: str) -> None:
    found: list[int] = []
    try:
        looked_s = begun_s = 0.0
        while True:
            now_s = time.monotonic()
            if now_s - looked_s >= LOOK_S:
                if started_at(keeper) != keeper_started:
                    return
                found, looked_s = processes(inode), now_s
            begun_s = max(now_s, begun_s + PERIOD_S)
            send(found, signal.SIGSTOP)
            _sleep_until(begun_s + PERIOD_S * (1 - factor))
            send(found, signal.SIGCONT)
            _sleep_until(begun_s + PERIOD_S)
    finally:
        send(processes(inode), signal.SIGCONT)


def _sleep_until(at_s: float) -> None:
    time.sleep(max(0.0, at_s - time.monotonic()))


def _end(number: int, frame: object) -> NoReturn:
    sys.exit(0)


if __name__ == "__main__":
    if child := os.fork():
        Path(sys.argv[5]).write_text(f"{child} {started_at(child)}")
        os._exit(0)
    signal.signal(signal.SIGTERM, _end)
    brake(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
