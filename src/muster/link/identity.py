"""Who this machine is: an Ed25519 key on disk, whose public half is the node id that peers authenticate.

Knows nothing of networks. The file holds the 32 secret bytes as one line of hexadecimal and is readable by its owner
only; whoever has it *is* this node. Two processes that are the same node would put each other out for ever, so a
process holds its identity alone.
"""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from muster.errors import MachineTrouble
from muster.spec.pool import NodeId


@dataclass(frozen=True, slots=True)
class Identity:
    node_id: NodeId
    secret: bytes = field(repr=False)

    @staticmethod
    def from_secret(secret: bytes) -> "Identity":
        """`secret` are the 32 bytes of the private key."""
        return Identity(Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex(), secret)

    @staticmethod
    def generate() -> "Identity":
        """A fresh one that is kept nowhere."""
        return Identity.from_secret(Ed25519PrivateKey.generate().private_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """64 bytes by which anybody can tell that this machine has said it. Begin `data` with what it is for."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(data)


def is_signed(node: NodeId, data: bytes, signature: bytes) -> bool:
    """Whether the machine of this id has signed exactly this."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(node)).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_identity(path: Path) -> Identity:
    """The identity kept at `path`, made there the first time. Raises `MachineTrouble` with the remedy."""
    try:
        if not path.exists():
            _create(path)
        _check_private(path)
        return Identity.from_secret(bytes.fromhex(path.read_text("ascii").strip()))
    except ValueError:
        raise MachineTrouble(
            f"The node key in {path} is damaged; restore it from a backup, or delete it to become a new node."
        ) from None
    except OSError as error:
        raise MachineTrouble(
            f"The node key in {path} cannot be used ({error.strerror}); check the folder's permissions and free space."
        ) from None


@contextmanager
def held_identity(path: Path) -> Iterator[Identity]:
    """As `load_identity`; inside the block no other process is this node."""
    identity = load_identity(path)
    with path.open("rb") as file:
        _lock(file.fileno(), path)
        yield identity


def _lock(descriptor: int, path: Path) -> None:
    """Until the file is closed, if need be by the death of the process."""
    try:
        import fcntl
    except ImportError:
        return  # no such locks on Windows
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MachineTrouble(
            f"Another process runs as this node already (its key is {path}); stop that one, or choose another "
            "--data-dir for this one."
        ) from None
    except OSError:
        return  # a file system without locks


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(Identity.generate().secret.hex() + "\n")
        # A link appears whole or not at all, and never replaces a key that another process made meanwhile.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _check_private(path: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise MachineTrouble(f"Others may read the node key in {path}; run `chmod 600 {path}` to keep it yours alone.")
