"""Disputes over seeded games: does the liar lose each, and in how few rounds?

    python benchmarks/disputes.py [--games 1000] [--seed 0] [--json FILE]

The rounds are those of `verify/disputes/game`, on a fake clock; the program is a chain of toy operators, so that a
thousand games take minutes (what real operators may honestly give: `tests/verify/disputes/test_interval.py`). Half of
the liars are accused, half accuse; an accuser that lies contests a pass that is right, and names halves truly or at
random. In half of the games three statements of ten get lost.
"""

import argparse
import sys
from math import ceil, log2
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import record_parts
from tests.verify.disputes.toys import ACCUSED, ACCUSER, Pass, Side, begun, chain, play


def game(seed: int) -> dict[str, Any]:
    random = Random(seed)
    layers, each = random.randint(1, 80), random.randint(1, 60)
    program, accused_lies = chain(layers, each), random.random() < 0.5
    honest, lie = Pass(program), Pass(program, random.randrange(layers * each))
    accused = Side(ACCUSED, lie if accused_lies else honest)
    accuser = Side(ACCUSER, honest if accused_lies else lie)
    if not accused_lies and random.random() < 0.5:
        accuser.pick = lambda truth: random.random() < 0.5
    outcome = play(begun(program), [accused, accuser], random, loss=random.choice([0.0, 0.3]))
    liar = "accused" if accused_lies else "accuser"
    most = ceil(log2(layers)) + ceil(log2(each))
    return {"liar": liar, "lost": list(outcome.liars), "rounds": outcome.rounds, "most_rounds": most}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()

    def games(part: str) -> dict[str, Any]:
        del part
        found = [game(asked.seed * 1_000_000 + number) for number in range(asked.games)]
        wrong = sum(one["lost"] != [one["liar"]] for one in found)
        beyond = max(one["rounds"] - one["most_rounds"] for one in found)
        print(f"{wrong} of {len(found)} games end wrongly; {beyond:+d} rounds beyond the most at most")
        longest = max(one["rounds"] for one in found)
        return {"games": len(found), "wrong": wrong, "rounds_beyond": beyond, "longest": longest}

    claimed = {
        "games": lambda found: {"proof.4.liars": found["wrong"], "proof.4.rounds": max(0, found["rounds_beyond"])}
    }
    record_parts(asked.json, {"benchmark": "disputes"}, ["games"], games, {"seed": str(asked.seed)}, claimed)


if __name__ == "__main__":
    main()
