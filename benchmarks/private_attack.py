"""What can machines of a private session read? The attacks of the literature, on our own shards.

    python benchmarks/private_attack.py [PART …] [--prompts N] [--seed 0] [--json FILE]

    plain      vocabulary matching on the states of all tokens, as a stage of a plain pipeline has them, at every depth
    own        what a CompNode and an AttnNode read off what they were really sent, by table alone
    gaps       passes of a blind search over stretches of 0, 1 and 2 hidden tokens (gaps 1, 2, 3), random model
    guided     the same with candidates in the order of the model itself, and what longer stretches would take
    shards     one machine of three goes through texts, at gaps of 3, 5, 9 and 17, with the same budget for each stretch
    colluders  two machines of three that talk, and two of five placed against that
    inverter   a trained network on states around a stretch, against the token's own state

The model is the embedded `tiny` on excerpts that it never saw, or a wider random one, in float32.
"""

import argparse
import statistics
import sys
import sysconfig
from collections.abc import Callable
from functools import cache
from itertools import combinations
from math import log10
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.private_inverter import inverted
from benchmarks.private_search import Searcher
from benchmarks.records import record_parts
from muster.compress.raw import decode
from muster.lab.prompts import excerpts
from muster.model.conformance import random_model
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.plan.private.placement import DEFAULT_MIN_GAP, PrivateMember, PrivatePlacement, place
from muster.private.client import NewIds
from muster.private.local import LocalSession
from muster.spec.token_shards import CLIENT, TokenShards
from muster.text.tokenizer import load_tokenizer
from muster.wire.frame import Payload
from muster.wire.messages.private import HiddenRows, PrivateMessage, ProjectedRows

TOKENS = 64
"""Of a prompt."""
SAID_TRIES = 100
"""Per token, by arXiv 2505.18332."""


@cache
def tiny() -> Searcher:
    model = AutoModelForCausalLM.from_pretrained(str(resolve("tiny")), dtype=torch.float32, attn_implementation="eager")
    return Searcher(model)


@cache
def wide(vocab: int) -> Searcher:
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Searcher(random_model(config))


def prompts(count: int, whole: bool = False) -> list[list[int]]:
    """Beginnings of excerpts that `tiny` never saw, or the `whole` of them."""
    tokenizer = load_tokenizer(resolve("tiny"))
    ids = [tokenizer.encode(text) for text in excerpts().values()]
    return [each[: len(each) if whole else TOKENS] for each in ids if len(each) >= TOKENS][:count]


def sources(count: int, tokens: int) -> list[list[int]]:
    """Pieces of the standard library, for an attacker to learn from."""
    tokenizer = load_tokenizer(resolve("tiny"))
    found: list[list[int]] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        ids = tokenizer.encode(path.read_text(errors="ignore")[:20_000])
        found += [ids[at : at + tokens] for at in range(0, len(ids) - tokens, tokens)]
        if len(found) >= count:
            break
    return found[:count]


def plain(asked: argparse.Namespace) -> dict[str, Any]:
    """Token by token, each depth for itself; what was found before is taken as known."""
    searcher, tries = tiny(), []
    by_depth: dict[int, list[bool]] = {}
    for ids in prompts(asked.prompts):
        states = searcher.states(ids)
        for at in range(1, 24):
            targets = {depth: states[depth, at] for depth in range(len(states))}
            order = searcher.guided(ids[:at], 1, 1)
            found = searcher.search_depths(ids[:at], [], targets, order, searcher.vocab, batch=64)
            for depth, one in found.items():
                by_depth.setdefault(depth, []).append(one.tokens == (ids[at],))
                tries.append(one.passes)
    return {
        "recovered_percent": {depth: round(100 * sum(hits) / len(hits), 2) for depth, hits in by_depth.items()},
        "tokens_each": len(by_depth[0]),
        "mean_tries": round(statistics.mean(tries), 1),
    }


def own(asked: argparse.Namespace) -> dict[str, Any]:
    """A table of the embedding, and of its values in the first layer, against real messages."""
    weights, rule = open_directory(resolve("tiny")), TokenShards(8, 3, 3)
    model = tiny().model
    layer = model.model.layers[0]
    embedded = model.model.embed_tokens.weight.float()
    values = layer.self_attn.v_proj(layer.input_layernorm(embedded)).detach()
    comp, attn, watch = _reader(embedded, values)
    session = LocalSession(weights, rule, torch.float32, watch)
    figures = []
    for number, ids in enumerate(prompts(asked.prompts)):
        comp.clear()
        attn.clear()
        session.step([NewIds(number, 0, tuple(ids))])
        for role, found in (*comp.items(), *attn.items()):
            mine = [token for at, token in enumerate(ids) if _brings(rule, role, at)]
            figures.append((len(mine), sum(a == b for a, b in zip(sorted(mine), sorted(found), strict=True))))
    total, read = map(sum, zip(*figures, strict=True))
    return {"tokens": total, "read_percent": round(100 * read / total, 3), "passes": 0}


def _brings(rule: TokenShards, role: int, position: int) -> bool:
    """Whether a role gets embedding or values of this token: those of queries are not looked at here."""
    if rule.is_comp(role):
        return rule.comp_of(position) == role
    return rule.shard_of(position) == rule.attn_of(role)[1]


def _reader(embedded: torch.Tensor, values: torch.Tensor) -> tuple[dict[int, list[int]], dict[int, list[int]], Any]:
    comp: dict[int, list[int]] = {}
    attn: dict[int, list[int]] = {}

    def nearest(rows: torch.Tensor, table: torch.Tensor) -> list[int]:
        return torch.cdist(rows, table).argmin(1).tolist()

    def watch(message: PrivateMessage, payload: Payload) -> None:
        if isinstance(message, HiddenRows) and message.sender == CLIENT:
            comp[message.receiver] = nearest(decode(message.tensor, payload, 10**9), embedded)
        if isinstance(message, ProjectedRows) and message.layer == 0 and message.keys:
            flat = decode(message.tensor, payload, 10**9)
            rows = flat[-len(message.keys) * values.shape[1] :].view(len(message.keys), -1)
            attn.setdefault(message.receiver, []).extend(nearest(rows, values))

    return comp, attn, watch


def gaps(asked: argparse.Namespace) -> dict[str, Any]:
    """Gap 1 is the table of the embedding: one pass says that it was right."""
    found = {}
    for vocab in (48, 128):
        searcher, rows = wide(vocab), {}
        generator = torch.Generator().manual_seed(asked.seed)
        for hidden in (0, 1, 2):
            passes = []
            for _ in range(6 if hidden < 2 else 3):
                ids = torch.randint(0, vocab, (12,), generator=generator).tolist()
                depth = int(torch.randint(1, 5, (), generator=generator))
                last = 8 + hidden
                target = searcher.states(ids)[depth, last]
                one = searcher.search(ids[:8], [ids[last]], target, depth, searcher.blind(hidden), vocab**2)
                passes.append(one.passes if one.tokens == tuple(ids[8:last]) else None)
            hits = [each for each in passes if each is not None]
            rows[hidden + 1] = {
                "recovered": len(hits), "tried": len(passes), "mean_passes": statistics.mean(hits) if hits else None,
                "stated_most": vocab**hidden,
            }  # fmt: skip
        found[vocab] = rows
    return found


def guided(asked: argparse.Namespace) -> dict[str, Any]:
    searcher, measured = tiny(), {}
    texts = prompts(asked.prompts)
    for hidden in (1, 2, 3):
        hits = []
        for ids in texts:
            at = TOKENS // 2
            target = searcher.states(ids)[3, at + hidden]
            order = searcher.guided(ids[:at], hidden, asked.budget)
            one = searcher.search(ids[:at], [ids[at + hidden]], target, 3, order, asked.budget)
            hits.append(one.passes if one.tokens is not None else None)
        within = [each for each in hits if each is not None]
        measured[hidden] = {
            "recovered": len(within),
            "tried": len(hits),
            "median_passes": statistics.median(within) if within else None,
            "stated": SAID_TRIES**hidden,
        }
    surprises = torch.stack([searcher.surprise(ids) for ids in texts])
    likely = {
        hidden: _quantiles(surprises.unfold(1, hidden, hidden)[:, 1:].sum(-1).flatten().tolist())
        for hidden in (1, 2, 3, 4, 8, 12, 16)
    }
    stated = {hidden: round(hidden * log10(SAID_TRIES), 1) for hidden in likely}
    return {"searched": measured, "log10_of_1_over_probability": likely, "log10_stated": stated}


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"lowest": 0, "tenth": len(ordered) // 10, "median": len(ordered) // 2}
    return {name: round(ordered[place], 2) for name, place in at.items()}


def strangers(count: int) -> list[PrivateMember]:
    return [PrivateMember(f"m{number}", f"o{number}") for number in range(count)]


def shards(asked: argparse.Namespace) -> dict[str, Any]:
    return {min_gap: _attacked(place(strangers(3), min_gap), 1, asked) for min_gap in (3, 5, 9, DEFAULT_MIN_GAP)}


def colluders(asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "placed_for_one": _attacked(place(strangers(3)), 2, asked),
        **{
            f"placed_for_two_gap_{min_gap}": _attacked(place(strangers(5), min_gap, colluders=2), 2, asked)
            for min_gap in (9, DEFAULT_MIN_GAP)
        },
    }


def _attacked(placement: PrivatePlacement, talking: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Machines that see the first token go through each text from there, until a search fails."""
    searcher = tiny()
    groups = [
        [role for one in group for role in placement.roles[one]] for group in combinations(placement.roles, talking)
    ]
    roles = next(group for group in groups if any(placement.rule.sees(role, 0) for role in group))
    hidden = recovered = own = total = tried = 0
    for ids in prompts(asked.prompts, whole=True):
        seen = [any(placement.rule.sees(role, at) for role in roles) for at in range(len(ids))]
        states, at = searcher.states(ids)[3], 0
        own, total, hidden = own + sum(seen), total + len(ids), hidden + len(ids) - sum(seen)
        while True in seen[at:]:
            stop = seen.index(True, at)
            if stop > at:
                order = searcher.guided(ids[:at], stop - at, asked.budget) if at else searcher.blind(stop)
                one = searcher.search(ids[:at], [ids[stop]], states[stop], 3, order, asked.budget)
                tried += 1
                if one.tokens is None:
                    break
                recovered += stop - at
            at = stop + 1
    return {
        "design": placement.design, "tokens": total, "own_percent": round(100 * own / total, 1),
        "hidden_tokens": hidden, "hidden_recovered": recovered, "stretches_tried": tried, "budget_each": asked.budget,
    }  # fmt: skip


def inverter(asked: argparse.Namespace) -> dict[str, Any]:
    texts = sources(asked.texts, 128)
    return {
        stretch: inverted(tiny(), texts, prompts(64), stretch, depth=3, epochs=4, seed=asked.seed)
        for stretch in (1, 2, 8)
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "plain": plain, "own": own, "gaps": gaps, "guided": guided, "shards": shards, "colluders": colluders,
    "inverter": inverter,
}  # fmt: skip

CLAIMED: dict[str, Callable[[Any], dict[str, float]]] = {
    "plain": lambda found: {"private.2.plain": min(found["recovered_percent"].values())},
    "own": lambda found: {"private.2.own": found["read_percent"]},
    "gaps": lambda found: {
        "private.2.gaps": max(
            row["mean_passes"] / row["stated_most"] if row["mean_passes"] else 9.0
            for rows in found.values()
            for row in rows.values()
        )
    },
    "guided": lambda found: {"private.2.guided": found["log10_of_1_over_probability"][8]["median"]},
    "shards": lambda found: {"private.2.shards": found[DEFAULT_MIN_GAP]["hidden_recovered"]},
    "colluders": lambda found: {
        "private.2.colluders": found[f"placed_for_two_gap_{DEFAULT_MIN_GAP}"]["hidden_recovered"]
    },
    "inverter": lambda found: {"private.2.inverter": found[8]["sharded"]["f1"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="all if none is named")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--texts", type=int, default=400, help="that the inverter learns from")
    parser.add_argument("--budget", type=int, default=600, help="passes for one stretch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()

    def run(part: str) -> dict[str, Any]:
        found = PARTS[part](asked)
        print(part, found, flush=True)
        return found

    about = {"prompts": str(asked.prompts), "budget": str(asked.budget), "seed": str(asked.seed)}
    record_parts(asked.json, {"benchmark": "private_attack"}, asked.parts or list(PARTS), run, about, CLAIMED)


if __name__ == "__main__":
    main()
