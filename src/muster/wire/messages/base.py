"""What all messages have in common, and the parts that several of them use. Knows no purpose."""

import msgspec

PROTOCOL = 6
"""Raised when an older peer could misread a message; peers of another protocol are refused by name."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all messages."""


class EpochMessage(Message, frozen=True):
    """Belongs to the placement of `epoch`: whoever holds no stage of it has no use for the message."""

    epoch: int


class TensorHeader(Message, frozen=True):
    """Describes the payload: `dtype` is a torch name (`float32`), row-major, little endian."""

    dtype: str
    shape: tuple[int, ...]
    codec: str = "raw"


class Address(Message, frozen=True):
    """Where a node can be dialled. `direct` are `ip:port`; `relay` is an optional relay URL."""

    node: str
    direct: tuple[str, ...] = ()
    relay: str | None = None
    region: str = ""
    """Where the node stands, in its owner's words; rehearsals shape links by it."""
