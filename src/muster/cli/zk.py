"""`muster zk`: what zero-knowledge proofs cost, and one of a disputed operator. The work is in `verify/zk`."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.options import Json
from muster.cli.output import out, plain, show_facts, show_json, show_table
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor

    from muster.verify.zk.bench.rows import ProverFigures
    from muster.verify.zk.evidence import TileProof, TileVerdict
    from muster.verify.zk.transcript import ShownOperator

app = typer.Typer(help="Zero-knowledge proofs: what they cost, and of a disputed operator.", no_args_is_help=True)
Transcript = Annotated[Path, typer.Argument(help="The file of a dispute that ended at one operator.")]
Weights = Annotated[Path | None, typer.Option(help="A folder with the model's safetensors.")]
Parameters = Annotated[
    Path | None,
    typer.Option(
        help="Public parameters (KZG) that the verifier made.", show_default="made here: they convince only you"
    ),
]
EXIT_LIE = 10
"""Of `check`, where the claim is a lie."""


@app.command()
def prove(
    transcript: Transcript,
    weights: Annotated[Path, typer.Option(help="A folder with the model's safetensors.")],
    out_: Annotated[Path, typer.Option("--out", help="The folder to write for a third party.")] = Path("proof"),
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of the weights.", show_default="as a minute allows")
    ] = None,
    bits: Annotated[int, typer.Option(min=4, max=48, help="Behind the point of every number.")] = 36,
    srs: Parameters = None,
    as_json: Json = False,
) -> None:
    """Prove a few rows of the disputed operator, around its worst number, without showing the weights."""
    with waiting("reading the dispute", as_json) as say:
        from muster.verify.zk import evidence, tile
        from muster.verify.zk.transcript import read_transcript

        shown = read_transcript(transcript)
        held = _held(shown, weights)
        place = tile.worst_place(shown, held, rows)
        say(f"proving {place.last - place.first} rows")
        done = evidence.prove(shown, place, tile.secret(shown.operator, held, place), out_, srs, bits)
        say("verifying")
        verdict = evidence.check(shown, out_, srs=srs)
    if as_json:
        show_json({"folder": str(out_), "rows": [place.first, place.last], **_figures(done), **_of(verdict)})
        return
    took = {name: done.seconds.get(name, 0.0) for name in ("parameters", "keys", "witness", "prove")}
    show_facts([
        ("operator", f"{shown.operator.in_words()}, token {place.token}, rows {place.first} to {place.last - 1}"),
        ("seconds", ", ".join(f"{name} {value:.1f}" for name, value in took.items()) + f"; {done.total_s:.1f} in all"),
        ("proof", f"{done.proof_bytes:,} bytes in {out_}; 2**{done.k} rows, {done.peak_mb:.0f} MB"),
        ("key", done.key),
        *_facts(verdict),
    ])  # fmt: skip
    if srs is None:
        out.print(
            "The public parameters were made here: others are convinced only by parameters that they made (--srs)."
        )


@app.command()
def check(
    transcript: Transcript,
    proof: Annotated[Path, typer.Argument(help="The folder that `muster zk prove` wrote.")],
    key: Annotated[str | None, typer.Option(help="Digest of the verifying key, from whoever has the weights.")] = None,
    weights: Weights = None,
    srs: Parameters = None,
    as_json: Json = False,
) -> None:
    """Verify a proof of a disputed operator, without the weights. Exit 10: the claim is a lie."""
    with waiting("reading the dispute", as_json) as say:
        from muster.verify.zk import evidence
        from muster.verify.zk.transcript import read_transcript

        shown = read_transcript(transcript)
        if weights is not None:
            say("making the key again from the weights")
            key = _key(shown, weights, proof, srs)
        verdict = evidence.check(shown, proof, key, srs)
    if as_json:
        show_json(_of(verdict) | {"key_known": key is not None})
    else:
        show_facts(_facts(verdict))
        if key is None:
            out.print("Nobody said that the verifying key is of the disputed weights; give --key or --weights.")
    if verdict.is_lie:
        raise typer.Exit(EXIT_LIE)


@app.command()
def parameters(
    k: Annotated[int, typer.Argument(min=6, max=20, help="For circuits of 2**K rows.")],
    out_: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("kzg.srs"),
    as_json: Json = False,
) -> None:
    """Make public parameters (KZG), as the verifier. Whoever makes them could forge proofs that they check."""
    with waiting(f"making parameters of 2**{k} rows", as_json):
        from muster.verify.zk.halo2 import Halo2Circuit, expect

        with TemporaryDirectory(prefix="muster-zk-") as folder:
            expect(Halo2Circuit(Path(folder)).parameters(k, out_.resolve()), "Making parameters")
    if as_json:
        show_json({"file": str(out_), "bytes": out_.stat().st_size})
    else:
        out.print(plain(f"{out_}: {out_.stat().st_size:,} bytes"))


@app.command()
def tune(as_json: Json = False) -> None:
    """Find columns and digits that ezkl proves fast, on the trained network of digits, beside its defaults."""
    with waiting("loading", as_json) as say:
        from muster.verify.zk import tune as search
        from muster.verify.zk.child import WhyNot
        from muster.verify.zk.sample import sample

        network, x, start = sample()
        with TemporaryDirectory(prefix="muster-zk-") as folder:
            found = search.tune(network, x, Path(folder), start, say=say)
    tried = [{"layout": search.in_words(one), "prove_s": seconds} for one, seconds in found.tried]
    default = found.default.reason if isinstance(found.default, WhyNot) else found.default.said["seconds"]
    if as_json:
        best = {"layout": search.in_words(found.choice), **found.best.said["seconds"]}
        show_json({"best": best, "default": default, "times_faster": found.times_faster, "tried": tried})
        return
    facts = [(f"{one['prove_s']:.2f} s", str(one["layout"])) for one in tried]
    usual = default if isinstance(default, str) else f"{default['prove']:.2f} s"
    faster = f", {found.times_faster:.1f} times as long" if found.times_faster else ""
    show_facts([*facts, ("ezkl's own", usual + faster), ("choice", search.in_words(found.choice))])


@app.command()
def bench(
    task: Annotated[str, typer.Option(help="Only this one: ecdsa, merkle-keccak, merkle-poseidon, digits, dlrm.")] = "",
    memory_mb: Annotated[int, typer.Option(min=200, help="Of a prover, in MiB.")] = 6_000,
    seconds: Annotated[float, typer.Option(min=1, help="For each step of a prover.")] = 280.0,
    as_json: Json = False,
) -> None:
    """Prove four tasks by every prover that can be installed here; each cell is figures or the reason why not."""
    with waiting("loading", as_json) as say:
        from muster.verify.zk.bench import published, table
        from muster.verify.zk.bench.networks import trained
        from muster.verify.zk.bench.rows import TASKS, ProverFigures
        from muster.verify.zk.child import ChildLimits, WhyNot

        if task and task not in TASKS:
            raise InvalidRequest(f"There is no task {task!r}; choose of {', '.join(TASKS)}.")
        rows = []
        for row in table.rows(ChildLimits(memory_mb, seconds), task, say):
            rows.append(row)
            if as_json:
                show_json(row.record())
    networks = {name: trained(name) for name in table.NETWORKS if task in ("", name)}
    right = {name: {"float": one.accuracy_float, "circuit": one.accuracy_whole} for name, one in networks.items()}
    if as_json:
        show_json({"accuracy": right, "published": [asdict(one) for one in published.ROWS]})
        return
    done = [(one, one.found) for one in rows if isinstance(one.found, ProverFigures)]
    columns = ("task", "prover", "prove s", "verify ms", "proof B", "peak MB", "size", "set-up s", "set-up MB")
    show_table("", columns, [_cells(one.task, one.system, found) for one, found in done], columns[2:])
    notes = [(f"{one.task}, {one.system}", found.note) for one, found in done if found.note]
    show_facts(
        [*notes, *((f"{one.task}, {one.system}", one.found.reason) for one in rows if isinstance(one.found, WhyNot))]
    )
    for name, one in right.items():
        out.print(f"{name}: {one['float']:.1%} of held-out cases right in float, {one['circuit']:.1%} in the circuit")
    apart = [(p.task, p.system, f"{p.prove_s:g}", p.proof, p.machine, p.source) for p in published.ROWS]
    show_table("published, elsewhere", ("task", "prover", "prove s", "proof", "machine", "source"), apart, ("prove s",))


def _cells(task: str, system: str, found: "ProverFigures") -> tuple[str, ...]:
    return (
        task, system, f"{found.prove_s:.2f}", f"{found.verify_ms:.0f}", f"{found.proof_bytes:,}",
        f"{found.peak_mb:.0f}", f"{found.size:,}", f"{found.setup_s:.1f}", f"{found.setup_bytes / 1e6:.1f}",
    )  # fmt: skip


def _held(shown: "ShownOperator", weights: Path) -> "dict[str, Tensor]":
    from muster.model.weights import open_directory

    files = open_directory(weights)
    names = files.names()
    return {one.name: files.read(one.name) for one in shown.operator.held() if one.name in names}


def _key(shown: "ShownOperator", weights: Path, proof: Path, srs: Path | None) -> str:
    from muster.verify.zk import evidence, tile

    claimed = evidence.read_statement(proof)
    place = tile.TilePlace(claimed.token, claimed.first, claimed.last)
    tile.given(shown, place)
    secret = tile.secret(shown.operator, _held(shown, weights), place)
    with TemporaryDirectory(prefix="muster-zk-") as folder:
        return evidence.key_for(secret, claimed, Path(folder), srs)


def _figures(done: "TileProof") -> dict[str, object]:
    return {
        "key": done.key, "k": done.k, "circuit_rows": done.rows, "proof_bytes": done.proof_bytes,
        "peak_mb": done.peak_mb, "total_s": done.total_s, "seconds": done.seconds,
    }  # fmt: skip


def _of(verdict: "TileVerdict") -> dict[str, object]:
    return {
        "is_lie": verdict.is_lie, "share": verdict.share, "off": verdict.off, "quantisation_error": verdict.error,
        "honest_radius": verdict.radius, "verify_ms": verdict.verify_s * 1000,
    }  # fmt: skip


def _facts(verdict: "TileVerdict") -> list[tuple[str, str]]:
    allowed = f"{verdict.error:.1e} of quantisation and {verdict.radius:.1e} of honest rounding are allowed"
    end = "the claim is a lie" if verdict.is_lie else "the claim is within what is allowed"
    return [
        ("verified", f"in {verdict.verify_s * 1000:.0f} ms"),
        ("claim", f"off by {verdict.off:.1e}; {allowed}: {end}"),
    ]
