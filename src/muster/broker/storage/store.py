"""What survives a restart: nodes, placements, tickets, keys, and how many tokens each key used.

SQLite by default, PostgreSQL by URL, both through SQLAlchemy. Synchronous: the service calls it from a thread. Prompts
and outputs never come near it; API keys are kept as hashes only (keys are long and random, so a plain hash suffices).
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from muster.broker.events import (
    BanChanged,
    Dissolved,
    NodeForgotten,
    NodeSeen,
    PipelineId,
    Placed,
    Remembered,
    TrustChanged,
)
from muster.broker.storage.database import open_database, trouble
from muster.broker.storage.tables import ApiKeyRow, NodeRow, PlacementRow, SecretRow, UsageRow
from muster.errors import InvalidRequest
from muster.spec.plan import Pipeline, TrainSettings
from muster.spec.pool import NodeId

KEY_PREFIX = "sk-muster-"
DISSOLVED = Pipeline((), TrainSettings(0))
"""Written in the place of a placement; it is of no machine."""
KEPT_PLACEMENTS = 100
"""Of each pipeline."""
EPOCH_MARGIN = 16
"""A crash may have lost the last few writes; epochs go on beyond what they could have been."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. None as a limit: unlimited."""

    id: str
    name: str
    hint: str
    """Its first characters, for people to tell keys apart."""
    requests_per_minute: int | None
    tokens_per_minute: int | None
    token_limit: int | None
    """Tokens that the key may use altogether."""
    tokens_used: int
    revoked: bool
    created_s: float

    @property
    def tokens_left(self) -> int | None:
        return None if self.token_limit is None else max(0, self.token_limit - self.tokens_used)


@dataclass(frozen=True, slots=True)
class Usage:
    requests: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class Store:
    """Thread-safe as far as the database is; every method is one transaction."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        self._engine = open_database(url)
        self._clock = clock

    @classmethod
    def at(cls, path: Path) -> "Store":
        """A SQLite file; its folder is made if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{path}")

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self._engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise trouble(error) from error

    # --- the pool -----------------------------------------------------------------------------------------------------

    def save(self, record: NodeSeen | NodeForgotten | BanChanged | TrustChanged | Placed | Dissolved) -> None:
        """Write down what the broker wants remembered."""
        match record:
            case NodeSeen():
                self._save_node(record)
            case NodeForgotten(node):
                with self._session() as session:
                    session.execute(delete(NodeRow).where(NodeRow.id == node))
            case BanChanged(node, banned):
                self._mark(node, banned=banned)
            case TrustChanged(node, own):
                self._mark(node, own=own)
            case Placed():
                self._save_placement(record)
            case Dissolved(id, epoch):
                self._save_placement(Placed(id, epoch, DISSOLVED))

    def _mark(self, node: NodeId, **marks: bool) -> None:
        with self._session() as session:
            row = session.get(NodeRow, node) or NodeRow(id=node, seen_s=self._clock())
            for name, value in marks.items():
                setattr(row, name, value)
            session.add(row)

    def _save_placement(self, placed: Placed) -> None:
        id, written = placed.id, msgspec.json.encode(placed.pipeline).decode()
        of_pipeline = (PlacementRow.job == id.job, PlacementRow.number == id.number)
        with self._session() as session:
            row = PlacementRow(epoch=placed.epoch, job=id.job, number=id.number, pipeline=written)
            row.made_s = self._clock()
            session.merge(row)
            epochs = select(PlacementRow.epoch).where(*of_pipeline).order_by(PlacementRow.epoch.desc())
            oldest = session.scalar(epochs.offset(KEPT_PLACEMENTS - 1).limit(1))
            if oldest is not None:
                session.execute(delete(PlacementRow).where(*of_pipeline, PlacementRow.epoch < oldest))

    def _save_node(self, seen: NodeSeen) -> None:
        with self._session() as session:
            row = session.get(NodeRow, seen.node) or NodeRow(id=seen.node)
            row.name, row.region, row.seen_s = seen.name, seen.region, self._clock()
            row.claim_bytes = seen.claim_bytes or row.claim_bytes or 0
            session.add(row)

    def remembered(self) -> Remembered:
        """Everything that `BrokerState` wants to know after a restart."""
        with self._session() as session:
            placements = session.scalars(select(PlacementRow).order_by(PlacementRow.epoch)).all()
            nodes = session.scalars(select(NodeRow)).all()
            secrets = session.scalars(select(SecretRow)).all()
            return Remembered(
                epoch=placements[-1].epoch + EPOCH_MARGIN if placements else 0,
                pipelines=_latest(placements),
                known={row.id for row in nodes if row.name},
                banned={row.id for row in nodes if row.banned},
                own={row.id for row in nodes if row.own},
                secrets=[(row.secret, row.expires_s) for row in secrets],
                names={row.id: row.name for row in nodes if row.name},
            )

    def nodes(self) -> list[dict[str, object]]:
        """Everybody who was ever here, the most recently seen first."""
        with self._session() as session:
            rows = session.scalars(select(NodeRow).order_by(NodeRow.seen_s.desc())).all()
            return [
                {
                    "id": row.id,
                    "name": row.name,
                    "region": row.region,
                    "banned": row.banned,
                    "seen_s": row.seen_s,
                    "claim_bytes": row.claim_bytes,
                }
                for row in rows
            ]

    def add_secret(self, secret: bytes, expires_s: float) -> None:
        """Remember the join secret of a ticket, so that a restarted head still knows its tickets."""
        with self._session() as session:
            session.add(SecretRow(secret=secret, expires_s=expires_s))

    # --- keys and usage -----------------------------------------------------------------------------------------------

    def add_key(
        self,
        name: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        token_limit: int | None = None,
    ) -> tuple[str, ApiKey]:
        """A new API key: the secret, which is shown this once and not kept, and its record."""
        if not name.strip() or len(name) > 64:
            raise InvalidRequest("A key needs a name of 1 to 64 characters; choose another.", "name")
        limits = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "token_limit": token_limit,
        }
        for what, limit in limits.items():
            if limit is not None and not 0 < limit < 2**53:
                raise InvalidRequest(f"A key's {what} must be a positive number; leave it out for no limit.", what)
        secret = KEY_PREFIX + token_urlsafe(32)
        with self._session() as session:
            row = ApiKeyRow(
                name=name,
                hint=secret[: len(KEY_PREFIX) + 4],
                digest=_digest(secret),
                **limits,
                tokens_used=0,
                revoked=False,
                created_s=self._clock(),
            )
            session.add(row)
            session.flush()
            return secret, _key(row)

    def keys(self) -> list[ApiKey]:
        with self._session() as session:
            return [_key(row) for row in session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.id))]

    def revoke_key(self, name_or_id: str) -> ApiKey:
        """Raises `InvalidRequest` where there is no such key, or several of that name."""
        with self._session() as session:
            matches = session.scalars(select(ApiKeyRow).where(ApiKeyRow.name == name_or_id)).all()
            by_id = session.get(ApiKeyRow, int(name_or_id)) if name_or_id.isdecimal() else None
            found = [row for row in matches if not row.revoked] or ([by_id] if by_id else list(matches))
            if len(found) != 1:
                how_many = "no key" if not found else f"{len(found)} keys"
                raise InvalidRequest(f"There is {how_many} {name_or_id!r}; `muster keys list` shows ids.", "name")
            found[0].revoked = True
            return _key(found[0])

    def has_keys(self) -> bool:
        """Whether any key is good; if not, the door may stay open to this machine alone."""
        with self._session() as session:
            return session.scalars(select(ApiKeyRow.id).where(~ApiKeyRow.revoked).limit(1)).first() is not None

    def verify(self, secret: str) -> ApiKey | None:
        """The record of the key that a client showed; None if it is unknown or revoked."""
        with self._session() as session:
            row = session.scalars(select(ApiKeyRow).where(ApiKeyRow.digest == _digest(secret))).first()
            return None if row is None or row.revoked else _key(row)

    def record_usage(self, key_id: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Token counts of one request."""
        with self._session() as session:
            session.add(
                UsageRow(
                    key_id=int(key_id),
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    at_s=self._clock(),
                )
            )
            used = ApiKeyRow.tokens_used + prompt_tokens + completion_tokens
            session.execute(update(ApiKeyRow).where(ApiKeyRow.id == int(key_id)).values(tokens_used=used))

    def usage(self, key_id: str, since_s: float = 0.0) -> Usage:
        """Sums over the key's requests since a moment (seconds since the Unix epoch)."""
        with self._session() as session:
            count, prompt, completion = session.execute(
                select(func.count(), func.sum(UsageRow.prompt_tokens), func.sum(UsageRow.completion_tokens)).where(
                    UsageRow.key_id == int(key_id), UsageRow.at_s >= since_s
                )
            ).one()
            return Usage(int(count), int(prompt or 0), int(completion or 0))

    def forget_usage(self, before_s: float) -> None:
        """Drop old rows; sums from before are gone then."""
        with self._session() as session:
            session.execute(delete(UsageRow).where(UsageRow.at_s < before_s))


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=str(row.id),
        name=row.name,
        hint=row.hint,
        requests_per_minute=row.requests_per_minute,
        tokens_per_minute=row.tokens_per_minute,
        token_limit=row.token_limit,
        tokens_used=row.tokens_used,
        revoked=row.revoked,
        created_s=row.created_s,
    )


def _latest(rows: Iterable[PlacementRow]) -> dict[PipelineId, Pipeline]:
    """The last of each pipeline that there is; `rows` are the oldest first.

    Without what another version wrote differently: a new placement is then made from nothing.
    """
    last = {PipelineId(row.job, row.number): row.pipeline for row in rows}
    read = {id: pipeline for id, text in last.items() if (pipeline := _pipeline(text)) is not None}
    return {id: pipeline for id, pipeline in read.items() if pipeline.stages}


def _pipeline(text: str) -> Pipeline | None:
    try:
        return msgspec.json.decode(text, type=Pipeline)
    except msgspec.MsgspecError:
        return None
