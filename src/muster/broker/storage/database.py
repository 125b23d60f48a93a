"""Opens the database of a pool: SQLite by default, PostgreSQL by URL. Knows nothing of what is kept in it."""

import os
from pathlib import Path

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from muster.broker.storage.tables import Base
from muster.errors import MachineTrouble


def open_database(url: str) -> Engine:
    try:
        address = make_url(url.replace("postgresql://", "postgresql+psycopg://", 1))
        # A server in the C locale would hand out bytes instead of text.
        arguments = {"client_encoding": "utf8"} if address.get_backend_name() == "postgresql" else {}
        if address.get_backend_name() == "sqlite" and address.database:
            _keep_private(Path(address.database))
        engine = create_engine(address, pool_pre_ping=True, connect_args=arguments)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _tune_sqlite)
        Base.metadata.create_all(engine)
        _add_columns(engine)
    except ModuleNotFoundError as error:
        raise MachineTrouble(f"The database needs {error.name}; install `muster-llm[postgres]`.") from error
    except (SQLAlchemyError, ValueError, OSError) as error:
        raise trouble(error) from error
    return engine


def _add_columns(engine: Engine) -> None:
    """What tables that an older version made do not have yet; each of those columns has a default."""
    for table in Base.metadata.sorted_tables:
        present = {column["name"] for column in inspect(engine).get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                with engine.begin() as connection:
                    made = CreateColumn(column).compile(dialect=engine.dialect)
                    connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {made}"))


def _keep_private(path: Path) -> None:
    """Join secrets are in it. The files that SQLite puts beside it take over its mode."""
    if str(path) != ":memory:":
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)


def _tune_sqlite(connection: object, _: object) -> None:
    """Readers beside a writer, and waiting instead of failing while another process writes."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()


def trouble(error: Exception) -> MachineTrouble:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
    return MachineTrouble(
        f"The pool's database cannot be used ({reason}); check its path or URL, rights and disk space."
    )
