"""A training run as somebody writes it down: a TOML file. Knows no machines, no torch and no files but by name.

model = "tiny"
out = "tuned"
steps = 200

[data]
files = ["notes/*.txt", "more.jsonl"]
held_out = ["kept.txt"]

[batch]
sequences = 16
length = 512

[optimizer]
learning_rate = 3e-4
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from muster.spec.workload import TrainWorkload
from muster.spec.written import Table, parse

MAX_COUNT = 10**9
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
_CountOrNone = Annotated[int, Field(ge=0, le=MAX_COUNT)]
_Share = Annotated[float, Field(ge=0, le=1)]
_BelowOne = Annotated[float, Field(ge=0, lt=1)]


class DataTable(Table):
    """`[data]`: what is read, and how."""

    files: tuple[str, ...] = Field(min_length=1)
    """Text files (a document each) and `.jsonl` files (one on each line), beside the run file; `*` as in a shell."""
    field: str = "text"
    """Where the text stands in a line of JSON."""
    broken_lines: Literal["stop", "skip"] = "stop"
    """What happens at a line that is no JSON object with such a text; skipped ones are counted."""
    held_out: tuple[str, ...] = ()
    """Files that are never trained on, by which the model is judged."""


class BatchTable(Table):
    """`[batch]`: what one optimizer step sees."""

    sequences: Count = 16
    """Texts in one step, over all pipelines and microbatches."""
    length: Count = 512
    """Tokens of each; documents are put end to end and cut."""
    microbatch: Count = 1
    """Texts that go through a stage at once. `sequences` must be a multiple of it."""
    schedule: Literal["1f1b", "gpipe"] = "1f1b"
    """In which order stages compute forward and backward."""
    recompute: bool = False
    """Keep only each layer's input and compute the rest again on the way back: less memory, a third more work."""

    @model_validator(mode="after")
    def _whole(self) -> "BatchTable":
        if self.sequences % self.microbatch:
            raise ValueError(f"sequences, {self.sequences}, is no multiple of microbatch, {self.microbatch}")
        return self


class OptimizerTable(Table):
    """`[optimizer]`: AdamW, and how its learning rate changes."""

    learning_rate: Annotated[float, Field(gt=0, le=10)] = 3e-4
    """The highest."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After warming up."""
    warm_up_steps: _CountOrNone = 0
    """Steps in which the rate rises to its highest."""
    least_share: _Share = 0.1
    """Of the highest rate, where the cosine ends."""
    weight_decay: _BelowOne = 0.01
    """Of matrices; norms and biases have none."""
    beta1: _BelowOne = 0.9
    """Of the first moment."""
    beta2: _BelowOne = 0.95
    """Of the second moment."""
    epsilon: Annotated[float, Field(gt=0, le=1)] = 1e-8
    """Added to the root of the second moment."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """The norm of all gradients together is cut down to this."""


class LinksTable(Table):
    """`[links]`: how what goes between stages is packed."""

    forward: str = "raw"
    """Hidden states: a codec, `aq-B` for their changes since the text's last visit in B bits, or `ada-top-k`."""
    backward: str = "raw"
    """Their gradients: a codec, such as `int8`, or `ada-top-k`."""
    buffers: Literal["fp32", "fp16", "bf16", "int8", "int4"] = "fp16"
    """How both ends keep the hidden states that `aq-B` sends changes of."""
    buffer_bytes: Annotated[int, Field(ge=1, le=2**50)] = 2**40
    """Of memory for them at each end of each link; the longest unused go, and are sent in full when they come again."""


class ExchangeTable(Table):
    """`[exchange]`: how replicas keep their weights the same."""

    codec: str = "raw"
    """What packs gradients (`int8`, `int4`), or with local steps how far weights went (`int8`, `chunk-top-k-1/64`)."""
    every: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    """Steps that each replica makes by itself before all meet; 1 adds up gradients in every step."""
    outer_learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.7
    """With local steps: of the mean of how far weights went."""
    outer_momentum: _BelowOne = 0.9
    """Likewise, after Nesterov."""
    feedback: _Share = 0.0
    """With local steps: the share of what the codec lost that goes with the next message; sparse codecs need it."""

    judged: bool = False
    """With local steps: take no replica's move that does not lower the loss as others' do."""

    @model_validator(mode="after")
    def _not_lossy_alone(self) -> "ExchangeTable":
        if self.every > 1 and self.codec.startswith("chunk-top-k") and not self.feedback:
            raise ValueError(f"{self.codec} loses nearly all of a message; write feedback = 0.95")
        return self


class LoraTable(Table):
    """`[lora]`: train small matrices beside the model's own, which stay as they are (Hu et al., 2021)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Of each pair of matrices."""
    alpha: Annotated[float, Field(gt=0, le=1e6)] = 32.0
    """What they add counts alpha / rank."""
    modules: tuple[str, ...] = ()
    """Names of the layers' parts that get them, such as `q_proj`; all multiplications of the layers without it."""


class TrainingRun(Table):
    """A whole file."""

    model: str
    """`tiny`, a folder with safetensors, a hub id, or a config.json to start from random weights."""
    out: str
    """The folder for checkpoints, metrics and in the end the model. Relative to the run file."""
    steps: Count
    """Optimizer steps of the whole run."""
    data: DataTable
    """What is read."""
    tokenizer: str | None = None
    """The folder or hub id with the tokenizer, if it is not the model's own."""
    seed: _CountOrNone = 0
    """Of the order of texts and of random weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What is multiplied in; weights, sums and optimizer stay in float32."""
    stages: Annotated[int, Field(ge=1, le=1024)] = 1
    """Pieces of the model, each on a device of its own where there are several. The result is the same."""
    device: str = "auto"
    """`cpu`, `cuda` or `mps`; `auto` takes the fastest."""
    evaluate_every: _CountOrNone = 50
    """Steps between two looks at the held-out files; 0 looks only at the end."""
    checkpoint_every: _CountOrNone = 100
    """Steps between two checkpoints; 0 keeps only the end, and what Ctrl-C leaves."""
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    """The newest so many stay."""
    batch: BatchTable = BatchTable()
    """How much one step sees."""
    optimizer: OptimizerTable = OptimizerTable()
    """How weights change."""
    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    """Copies of the model that share each step's texts."""
    exchange: ExchangeTable = ExchangeTable()
    """How replicas agree."""
    links: LinksTable = LinksTable()
    """How much is sent between stages."""
    lora: LoraTable | None = None
    """Present: adapters are trained instead of the model's own weights."""

    @model_validator(mode="after")
    def _enough_for_all(self) -> "TrainingRun":
        if self.batch.sequences // self.batch.microbatch < self.replicas:
            raise ValueError(
                f"{self.replicas} replicas need as many microbatches, and [batch] has "
                f"{self.batch.sequences // self.batch.microbatch}"
            )
        return self

    @property
    def workload(self) -> TrainWorkload:
        batch = self.batch
        return TrainWorkload(batch.sequences, batch.length, batch.microbatch, "adamw", batch.recompute, batch.schedule)


def parse_run(text: str) -> TrainingRun:
    """Raises `InvalidRequest` that names the line or the key."""
    return parse(text, TrainingRun, "The training run")
