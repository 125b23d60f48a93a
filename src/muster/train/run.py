"""A training run from its file to a trained model, all stages in this process. Knows no terminal and no clock.

`prepare` reads model and data; `start` builds the stages, from the newest checkpoint if there is one.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3

from muster.compress.registry import check_known
from muster.cost.config_fields import read_config
from muster.errors import ContextTooLong, InvalidRequest, MachineTrouble, Unsupported
from muster.model.adapter import adapter_config, add_adapters, load_adapters, merge_adapters, save_adapters
from muster.model.adapter import without_adapters as model_alone
from muster.model.conformance import check_conformance
from muster.model.export import copy_companions, save_model, stored_dtype, write_random_model
from muster.model.shape import shape_of
from muster.model.source import resolve
from muster.model.trainable import TrainableStage
from muster.model.weights import open_directory
from muster.spec.codec import Codec
from muster.spec.model_shape import ModelShape
from muster.spec.training import LinksTable, TrainingRun
from muster.text.tokenizer import load_tokenizer
from muster.train.checkpoint import Checkpoint, check_identity, latest_checkpoint, write_checkpoint
from muster.train.corpus import Corpus
from muster.train.documents import Documents, find_files, read_documents
from muster.train.links import StageLinks, check_links, settled
from muster.train.local import LocalPipelines, TrainingPipelines, build_places
from muster.train.score import Score
from muster.train.step import RunLayout, StepReport

MAX_SCORED_TEXTS = 64
"""Held-out texts by which a model is judged; more would take longer than they tell."""
REPEATED_TEXTS = 4096
"""So many in a step are taken even where the data has fewer."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """All that a run is made of but the weights in memory."""

    run: TrainingRun
    out: Path
    source: Path | None
    """The folder of the model that is trained on; None starts from random weights."""
    companions: Path
    """The folder with the tokenizer."""
    config_json: str
    shape: ModelShape
    documents: Documents
    corpus: Corpus
    held_out: Corpus | None
    bytes_per_token: float
    """Of the held-out files."""

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same. How the model is cut, how many steps and how fast may change on the way."""
        run = self.run
        return {
            "model": blake3(self.config_json.encode()).hexdigest(),
            "data": blake3(self.corpus.ids.tobytes()).hexdigest(),
            "seed": run.seed,
            "batch": [run.batch.sequences, run.batch.length],
            "lora": None if run.lora is None else [run.lora.rank, run.lora.alpha, sorted(run.lora.modules)],
        }


def prepare(run: TrainingRun, folder: Path, say: Say) -> PreparedRun:
    """`folder` is what paths in the run are relative to. Raises `MusterError` for all that can be told beforehand."""
    check_links(run.links)
    check_known(Codec(run.exchange.codec))
    source, config_json = _model(run, folder)
    out = _beside(run.out, folder)
    if source is not None and out.resolve() == source.resolve():
        raise InvalidRequest(f"{out} holds the model that is trained on; write another `out`.", "out")
    shape = shape_of(config_json, run.model, "float32")
    if run.batch.length > shape.max_context:
        raise ContextTooLong(
            f"Texts of {run.batch.length} tokens are longer than the {shape.max_context} that {run.model} takes; "
            "lower the length in the run's [batch].",
            "length",
        )
    if run.stages > shape.num_layers:
        raise InvalidRequest(f"{shape.num_layers} layers cannot be cut into {run.stages} stages; give fewer.", "stages")
    if run.stages > 1:
        check_conformance(config_json)
    companions = _tokenizer_folder(run, folder, source)
    documents, held_out = _read(run, folder, companions, config_json, say)
    if len(documents.ids) and int(documents.ids.max()) >= shape.vocab_size:
        raise InvalidRequest(
            f"The tokenizer makes tokens beyond the model's {shape.vocab_size}; use the model's own.", "tokenizer"
        )
    corpus = Corpus(documents.ids, run.batch.length, run.seed)
    _check_step(run, corpus)
    run = _with_links(run, corpus, say)
    judged = Corpus(held_out.ids, run.batch.length, run.seed, "The held-out data") if held_out else None
    ratio = held_out.nbytes / len(held_out.ids) if held_out else 0.0
    return PreparedRun(run, out, source, companions, config_json, shape, documents, corpus, judged, ratio)


def _check_step(run: TrainingRun, corpus: Corpus) -> None:
    """A few texts may well come several times in one step; millions, from data that has few, are a slip of the hand."""
    most = max(corpus.texts, REPEATED_TEXTS)
    if run.batch.sequences > most:
        raise InvalidRequest(
            f"A step of {run.batch.sequences} texts is more than the data has, which are {corpus.texts}; give at most "
            f"{most}.",
            "sequences",
        )


def _with_links(run: TrainingRun, corpus: Corpus, say: Say) -> TrainingRun:
    links = settled(run.links, run.steps * run.batch.sequences / corpus.texts)
    if links != run.links:
        say(f"no text comes twice, so {links.forward} takes the place of {run.links.forward}")
    return run.model_copy(update={"links": links})


def _beside(name: str, folder: Path) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() else folder / path


def _model(run: TrainingRun, folder: Path) -> tuple[Path | None, str]:
    beside = _beside(run.model, folder)
    if run.model.endswith(".json"):
        if run.lora is not None:
            raise Unsupported("Adapters on random weights learn nothing of use; leave out [lora].", "lora")
        try:
            return None, beside.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise InvalidRequest(f"{beside} cannot be read; correct the run's model.", "model") from None
    source = resolve(str(beside) if beside.is_dir() else run.model)
    return source, open_directory(source).config_json


def _tokenizer_folder(run: TrainingRun, folder: Path, source: Path | None) -> Path:
    if run.tokenizer is not None:
        beside = _beside(run.tokenizer, folder)
        return resolve(str(beside) if beside.is_dir() else run.tokenizer)
    return source if source is not None else _beside(run.model, folder).parent


def _read(
    run: TrainingRun, folder: Path, companions: Path, config_json: str, say: Say
) -> tuple[Documents, Documents | None]:
    named = read_config(config_json).get("eos_token_id")
    end_id = named[0] if isinstance(named, list) and named else named
    end_id = end_id if isinstance(end_id, int) else None
    files, kept = find_files(run.data.files, folder), find_files(run.data.held_out, folder)
    trained = [file for file in files if file not in kept]
    tokenizer = load_tokenizer(companions)
    try:
        documents = read_documents(trained, run.data, tokenizer, end_id, say)
        return documents, read_documents(kept, run.data, tokenizer, end_id, say) if kept else None
    finally:
        tokenizer.close()


class Running:
    """A run under way. `start` makes one."""

    def __init__(self, prepared: PreparedRun, devices: Sequence[torch.device], say: Say) -> None:
        """Raises `InvalidRequest` if the folder holds checkpoints of another run."""
        self.prepared = prepared
        self._run = prepared.run
        self._layout = RunLayout(self._run.replicas, self._run.stages)
        found = latest_checkpoint(prepared.checkpoints, say)
        if found is not None:
            check_identity(found, prepared.identity)
        elif prepared.source is None:
            found = self._begin_at_random()
        self.done = 0 if found is None else found.step
        """Steps."""
        self._lora = None
        if self._run.lora is not None:
            self._lora = adapter_config(prepared.config_json, self._run.lora, self._run.model)
        say(f"loading the weights of {self._run.stages} stages" if self._run.stages > 1 else "loading the weights")
        self._pipelines = self._build(found, devices)

    def step(self) -> StepReport:
        """Raises `TrainingDiverged`, with the weights as they were, and `MachineTrouble` where memory does not do."""
        try:
            return self._step()
        except torch.OutOfMemoryError:
            raise MachineTrouble(
                f"Step {self.done + 1} needs more memory than the device has; lower the microbatch or the length, or "
                "set recompute = true, and run again to go on from the last checkpoint."
            ) from None

    def _step(self) -> StepReport:
        batch = self._run.batch
        report = self._pipelines.train(self.done, lambda step: self.prepared.corpus.batch(step, batch.sequences), batch)
        self.done = report.step
        return report

    def evaluate(self) -> Score | None:
        """On held-out texts; None where there are none."""
        if self.prepared.held_out is None:
            return None
        texts = self.prepared.held_out.all_texts(MAX_SCORED_TEXTS)
        return self._pipelines.judge(texts, self._run.batch)

    def bits_per_byte(self, score: Score) -> float:
        return score.loss / log(2) / self.prepared.bytes_per_token

    def facts(self) -> dict[str, Any]:
        """What else is to be told of the last step."""
        return {}

    def stop_when(self, interrupted: Callable[[], bool]) -> None:
        """Waiting for others ends when `interrupted` says so; where it is all here nobody is waited for."""

    def close(self) -> None:
        """Let go of what the run holds outside this process; nothing, where it is all here."""

    def save(self) -> Path:
        """A checkpoint. Raises `MachineTrouble`."""
        return write_checkpoint(
            self.prepared.checkpoints,
            self.done,
            self.prepared.identity,
            self._pipelines.optimizer_state(),
            self._write,
            self._run.keep_checkpoints,
        )

    def finish(self) -> Path:
        """Put the trained model where `muster serve` and `transformers` find it. Adapters are merged for good."""
        out, prepared = self.prepared.out, self.prepared
        if self._lora is not None:
            (out / "adapter").mkdir(parents=True, exist_ok=True)
            save_adapters(self._pipelines.tensors(), self._lora, out / "adapter")
            for trainer in self._pipelines.trainers.values():
                merge_adapters(trainer.stage.model)
        dtype = torch.float32 if prepared.source is None else stored_dtype(prepared.config_json)
        partial = out / "model.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            save_model(prepared.config_json, model_alone(self._pipelines.tensors()), partial, dtype)
            copy_companions(prepared.companions, partial)
            for file in sorted(partial.iterdir()):
                file.replace(out / file.name)
            partial.rmdir()
        except OSError as error:
            raise MachineTrouble(
                f"The model cannot be written to {out} ({error.strerror}); free some space there and run again."
            ) from error
        return out

    def _write(self, folder: Path) -> None:
        if self._lora is not None:
            save_adapters(self._pipelines.tensors(), self._lora, folder)
        else:
            save_model(self.prepared.config_json, self._pipelines.tensors(), folder, torch.float32)
        copy_companions(self.prepared.companions, folder)

    def _begin_at_random(self) -> Checkpoint:
        """Random weights are a checkpoint before the first step, so that every cut of them is the same."""
        prepared = self.prepared

        def write(folder: Path) -> None:
            write_random_model(prepared.config_json, self._run.seed, folder)

        path = write_checkpoint(prepared.checkpoints, 0, prepared.identity, {}, write, self._run.keep_checkpoints)
        return Checkpoint(path, 0, prepared.identity)

    def _adapt(self, stage: TrainableStage) -> None:
        if self._lora is not None:
            add_adapters(stage.model, self._lora, self._run.seed)

    def _build(self, found: Checkpoint | None, devices: Sequence[torch.device]) -> TrainingPipelines:
        base = self.prepared.source if found is None or self._lora is not None else found.path
        assert base is not None
        places = build_places(
            open_directory(base), self._run, self.prepared.shape.num_layers, self._layout, devices, self._adapt
        )
        packed = self._run.links != LinksTable()
        links = {place: StageLinks(place, self._run.links, self._run.seed) for place in places} if packed else None
        pipelines = LocalPipelines(places, links)
        if found is not None:
            if self._lora is not None and found.step:
                for trainer in places.values():
                    load_adapters(trainer.parameters, found.path)
            pipelines.restore_optimizer(found.optimizer_state())
        return pipelines
