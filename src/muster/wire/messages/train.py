"""Data channel: places of a training run form a round, train step by step, and pass tensors and sums to each other.

A *place* is one stage of one pipeline, a *round* all places that train together until one is lost or joins. The head
orders and adds up; hidden states, their gradients and what replicas exchange go from place to place. Each message has
the epoch under which its receiver holds its stage.

    head ── BeginRound ──▶ every place ── RoundReady ──▶ head      who is there, and how far its weights are
    head ── SendState, TakeState ──▶ whoever has, and whoever lacks, the weights of the last step
    head ── TrainTexts ──▶ every place ── TensorPiece ──▶ places   one step, or a look at held-out texts
         ◀── TellFigures ── every place ◀── AllFigures ── head     sums over all places
         ◀── TrainEnded ── every place
"""

from typing import Literal

import msgspec

from muster.wire.messages.base import Address, EpochMessage, TensorHeader

HEAD = -1
"""Stands for a pipeline or stage where the head is meant."""
FRESH = -1
"""Of steps: none, and the optimizer has seen nothing."""
TensorKind = Literal["activations", "gradients", "shared", "weights", "optimizer"]


class TrainingPlace(msgspec.Struct, frozen=True, array_like=True):
    """Who holds a stage of a pipeline, where to dial it, and the epoch under which it does."""

    pipeline: int
    stage: int
    epoch: int
    address: Address


class BeginRound(EpochMessage, frozen=True, tag="begin_round"):
    """Head to every place: these train together from now on; what belongs to an earlier round is forgotten.

    `run` is the training run as JSON without its files. Answered with `RoundReady`, or with `TrainEnded` that says why
    not.
    """

    round: int
    pipeline: int
    """The receiver's."""
    places: tuple[TrainingPlace, ...]
    run: str


class RoundReady(EpochMessage, frozen=True, tag="round_ready"):
    """Place to head: all others are reached; `done` steps are in the weights and the optimizer here.

    -1: the weights are those of the manifest, and the optimizer has seen nothing.
    """

    round: int
    done: int


class SendState(EpochMessage, frozen=True, tag="send_state"):
    """Head to place: send your weights and your optimizer's state, as `TensorPiece`, to that place, or to the head."""

    round: int
    pipeline: int = HEAD
    stage: int = HEAD


class TakeState(EpochMessage, frozen=True, tag="take_state"):
    """Head to place: take weights and optimizer from that place, or from the head; `done` steps are in them.

    Answered with `RoundReady`.
    """

    round: int
    done: int
    pipeline: int = HEAD
    stage: int = HEAD


class TrainTexts(EpochMessage, frozen=True, tag="train_texts"):
    """Head to every place: step `step`, counted from 0, on so many texts in each microbatch of the receiver's pipeline.

    The payload are the token ids [texts, length + 1] at first and last stages, as `ids` says; others get none. With
    `score` nothing is changed, and the loss is that of held-out texts.
    """

    round: int
    sequence: int
    """Counts such orders in a round, from 1."""
    step: int
    texts: tuple[int, ...]
    total_tokens: int
    """Predicted in all pipelines."""
    score: bool = False
    ids: TensorHeader | None = None


class TensorPiece(EpochMessage, frozen=True, tag="tensor_piece"):
    """A part of a tensor of a letter from one place to another; the payload is the part. Pieces come in order.

    A letter has the tensors of one kind and microbatch. Without `header` it is one without tensors.
    """

    round: int
    sequence: int
    """Of the order that it belongs to; 0 for weights and optimizer."""
    pipeline: int
    """The sender's, as `stage`; the head's is -1."""
    stage: int
    kind: TensorKind
    microbatch: int = 0
    name: str = ""
    header: TensorHeader | None = None
    """Of the whole tensor."""
    offset: int = 0
    """Of the payload in the whole tensor's bytes."""
    nbytes: int = 0
    """Of the whole tensor as it travels."""
    left: int = 0
    """Tensors of the letter that follow this one."""


class TellFigures(EpochMessage, frozen=True, tag="tell_figures"):
    """Place to head: its share of sums over all places, such as the loss and the squares of gradients."""

    round: int
    sequence: int
    figures: tuple[float, ...]
    number: int = 0
    """Tells apart several of one order."""


class AllFigures(EpochMessage, frozen=True, tag="all_figures"):
    """Head to every place: the figures of all, in the order of the places. Once it is out, the step counts."""

    round: int
    sequence: int
    figures: tuple[tuple[float, ...], ...]
    number: int = 0


class TrainEnded(EpochMessage, frozen=True, tag="train_ended"):
    """Place to head: what came of `TrainTexts`, the same at every place; or, with `code`, why nothing did.

    `sequence` is 0 where a round could not begin.
    """

    round: int
    sequence: int
    step: int = 0
    """How many are done now."""
    loss: float = 0.0
    """Nats per token."""
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    tokens: int = 0
    """Predicted, in a look at held-out texts."""
    code: str = ""
    """Of an error in `muster.errors`."""
    reason: str = ""
