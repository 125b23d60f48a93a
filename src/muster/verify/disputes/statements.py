"""What the sides of a dispute sign, in the order in which they sign it. Knows no numbers and no clock.

    referee   DisputeOpening  who disputes which pass of which model
    accused   Pledge        its program, and its states where segments meet (the accuser pledges the same of its own)
    accused   Reveal        the state in the middle, with its tensors        } a round; first over segments,
    accuser   Pick          which half holds the fault                      } then over the operators of one
    accused   StepPledge    its states between the operators of the one segment that is left
    accused   LastStep      the one operator that is left: inputs, claimed outputs, both states
    referee   SilenceRuling somebody did not answer in time

Every statement names its dispute, its place and the statement before it, so that none fits anywhere else.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from blake3 import blake3

from muster.errors import ProtocolViolation
from muster.link.base import short_id
from muster.link.identity import Identity, is_signed
from muster.spec.pool import NodeId
from muster.verify.disputes.program import TracedOperator, tensor_digest
from muster.verify.merkle import leaf, root_by_path

PURPOSE = b"muster dispute\x00"
"""What the key signs here is signed for nothing else."""
MAX_BODY = 2**24
"""Bytes of one statement without its tensors."""
MAX_TENSOR_BYTES = 2**30
"""Of all tensors that come with one statement."""
MAX_SEGMENTS, MAX_OPERATORS = 4096, 2**20

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Proof = Annotated[tuple[Digest, ...], msgspec.Meta(max_length=40)]
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_OPERATORS)]
State = Annotated[tuple[tuple[Count, Digest], ...], msgspec.Meta(max_length=4096)]
"""(number of a value, digest of its tensor), by number."""


class DisputeOpening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="opening"):
    dispute: Digest
    """Drawn at random."""
    accused: NodeId
    accuser: NodeId
    manifest: str
    """Of the model, hexadecimal."""
    first: int
    last: int
    """Layers of the accused's stage."""
    dtype: str
    inputs: tuple[Digest, Digest, Digest]
    """Of what the stage received (both ends of the boundary signed it), of the positions, and of the rows of logits."""
    served: Digest
    """Of what it passed on."""
    limit: float
    """What it passed on and what it now computes may differ by so much: relative, L2, the worst token."""
    versions: str
    """Of PyTorch, transformers and Muster, which both sides run."""
    answer_s: float
    """Whoever is silent for longer loses."""


class Pledge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pledge"):
    program: Digest
    """Root over the operators in order."""
    operators: Count
    starts: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=MAX_SEGMENTS)]
    states: Digest
    """Root over the states at the cuts between segments, both ends included."""
    begin: State
    begin_proof: Proof
    end: State
    """One value: the output; its tensor comes along from the accused."""
    end_proof: Proof


class Reveal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reveal"):
    cut: Count
    """Operators before it."""
    state: State
    proof: Proof


class Pick(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pick"):
    before: bool
    """Whether what was revealed is wrong already; else what follows from it is."""


class Withdrawal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="withdrawal"):
    """The accuser finds no fault."""


class StepPledge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="steps"):
    states: Digest
    """Root over the states before each operator of the segment and behind the last."""
    begin_proof: Proof
    end_proof: Proof


class LastStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="last"):
    """The tensors come along: inputs in the order of `operator.takes()`, then outputs as it makes them."""

    operator: TracedOperator
    operator_proof: Proof
    before: State
    before_proof: Proof
    after: State
    after_proof: Proof
    inputs: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=4096)]
    outputs: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=4096)]


class SilenceRuling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="silence"):
    node: NodeId


Said = DisputeOpening | Pledge | Reveal | Pick | Withdrawal | StepPledge | LastStep | SilenceRuling


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    dispute: Digest
    number: Count
    """0 is the opening."""
    previous: Digest
    """Of the body before this one; zeros before the opening."""
    said: Said


class TensorBytes(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def digest(self) -> bytes:
        """As `tensors.digest`."""
        return tensor_digest(self.dtype, self.shape, self.data)


class SignedBody(msgspec.Struct, frozen=True, array_like=True):
    signer: NodeId
    body: bytes
    signature: bytes
    tensors: tuple[TensorBytes, ...] = ()
    """Not signed, but each is named by its digest in what is."""

    def digest(self) -> bytes:
        return blake3(self.body).digest()


_bodies = msgspec.msgpack.Decoder(Body)
NOTHING_BEFORE = bytes(32)


def sign(identity: Identity, body: Body, tensors: Sequence[TensorBytes] = ()) -> SignedBody:
    packed = msgspec.msgpack.encode(body)
    return SignedBody(identity.node_id, packed, identity.sign(PURPOSE + packed), tuple(tensors))


def opened(one: SignedBody) -> Body:
    """What it says. Raises `ProtocolViolation` unless its signer signed it and every field can be."""
    who = f"A statement of node {short_id(one.signer)}"
    if len(one.body) > MAX_BODY or sum(len(tensor.data) for tensor in one.tensors) > MAX_TENSOR_BYTES:
        raise ProtocolViolation(f"{who} is larger than any of a dispute; dispute a shorter prompt.")
    if not is_signed(one.signer, PURPOSE + one.body, one.signature):
        raise ProtocolViolation(f"{who} bears a signature that is not that machine's; it was forged or changed.")
    try:
        return _bodies.decode(one.body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProtocolViolation(f"{who} cannot be read ({error}); update Muster on that machine.") from error


def state_leaf(state: State) -> bytes:
    """The leaf that a state is in a tree of states."""
    return leaf(msgspec.msgpack.encode(state))


def operator_leaf(operator: TracedOperator) -> bytes:
    return leaf(operator.packed())


def is_in(root: bytes, count: int, index: int, leaf_hash: bytes, proof: Sequence[bytes]) -> bool:
    """Whether this is leaf `index` of the `count` leaves under `root`."""
    return root_by_path(leaf_hash, index, count, proof) == root
