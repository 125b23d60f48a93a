"""A small run without files of text: random token ids, a model of three layers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from muster.model.shape import shape_of
from muster.spec.training import BatchTable, DataTable, OptimizerTable, TrainingRun
from muster.train.corpus import Corpus
from muster.train.documents import Documents
from muster.train.run import PreparedRun, Running
from tests.model.families import CPU, FAMILIES, VOCAB, dense_model, save

LENGTH = 16


def prepared(folder: Path, family: str | None = "llama", kind: str = "llama", **changes: Any) -> PreparedRun:
    """`family` None starts from random weights of `kind`."""
    run = TrainingRun(
        model=family or "config.json",
        out="out",
        steps=6,
        data=DataTable(files=("none.txt",)),
        batch=BatchTable(sequences=4, length=LENGTH, microbatch=1),
        optimizer=OptimizerTable(learning_rate=1e-3, warm_up_steps=2, epsilon=1e-5),
    ).model_copy(update=changes)
    source = None
    if family is not None:
        source = folder / family
        if not source.exists():
            save(dense_model(family), source)
    config_json = FAMILIES[family or kind]().to_json_string()
    ids = np.random.default_rng(0).integers(0, VOCAB, 40 * LENGTH + 1).astype(np.uint32)
    corpus = Corpus(ids, LENGTH, run.seed)
    documents = Documents(ids, 4 * len(ids), 1, 0)
    companions = folder / "companions"
    companions.mkdir(exist_ok=True)
    (companions / "tokenizer_config.json").write_text("{}")
    shape = shape_of(config_json, run.model, "float32")
    return PreparedRun(run, folder / "out", source, companions, config_json, shape, documents, corpus, corpus, 4.0)


def running(prepared: PreparedRun) -> Running:
    return Running(prepared, [CPU], lambda words: None)


def weights(run: Running) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run._pipelines.tensors().items()}
