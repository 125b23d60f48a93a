"""The tables of the store. Knows nothing of what is done with them. Times are seconds since the Unix epoch."""

from sqlalchemy import BigInteger, LargeBinary, String, Text, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class NodeRow(Base):
    """A machine that was here once, or was banned before it ever came (then it has no name)."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), default="")
    region: Mapped[str] = mapped_column(String(64), default="")
    banned: Mapped[bool] = mapped_column(default=False)
    own: Mapped[bool] = mapped_column(default=False, server_default=false())
    """The operator has said that it is one of theirs."""
    seen_s: Mapped[float]
    claim_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class PlacementRow(Base):
    __tablename__ = "placements"

    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    job: Mapped[str] = mapped_column(String(256), server_default="")
    number: Mapped[int] = mapped_column(server_default="0")
    """Which of the job's pipelines."""
    pipeline: Mapped[str] = mapped_column(Text)
    """JSON of `spec.plan.Pipeline`."""
    made_s: Mapped[float]


class SecretRow(Base):
    """Join secrets of tickets; without them a restarted head would not know its own pool."""

    __tablename__ = "join_secrets"

    id: Mapped[int] = mapped_column(primary_key=True)
    secret: Mapped[bytes] = mapped_column(LargeBinary(32))
    expires_s: Mapped[float]


class ApiKeyRow(Base):
    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    hint: Mapped[str] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of the key, hexadecimal."""
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    token_limit: Mapped[int | None] = mapped_column(BigInteger)
    tokens_used: Mapped[int] = mapped_column(BigInteger)
    revoked: Mapped[bool]
    created_s: Mapped[float]


class UsageRow(Base):
    """Token counts of one request."""

    __tablename__ = "usage"

    id: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[int] = mapped_column(index=True)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    at_s: Mapped[float] = mapped_column(index=True)
