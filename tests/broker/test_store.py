"""What survives a restart, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from muster.broker.events import BanChanged, NodeSeen, PipelineId, Placed
from muster.broker.storage.store import EPOCH_MARGIN, Store
from muster.broker.storage.tables import Base, PlacementRow
from muster.errors import InvalidRequest, MachineTrouble
from muster.spec.plan import Pipeline, ServeSettings, Stage
from tests.broker.databases import find_postgres, postgres

ID = PipelineId("model")
NODE, OTHER = "0a" * 32, "0b" * 32
PIPELINE = Pipeline(
    (Stage(NODE, 0, 3), Stage(OTHER, 3, 8)), ServeSettings(num_pages=7, page_size=16, num_microbatches=3)
)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("THE STORE IS TESTED ON SQLITE ONLY: no PostgreSQL on this machine (`apt install postgresql`)")
    pytest.importorskip("psycopg", reason="THE STORE IS TESTED ON SQLITE ONLY: `pip install psycopg[binary]`")
    with postgres(binaries) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'pool.db'}"
        return
    base = request.getfixturevalue("server")
    yield base
    cleaner = Store(base)
    Base.metadata.drop_all(cleaner._engine)
    cleaner.close()


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    store = Store(url, clock)
    yield store
    store.close()


def test_a_restarted_head_finds_its_pool_again(store, url):
    store.save(NodeSeen(NODE, "anna", "east", claim_bytes=0))
    store.save(NodeSeen(NODE, "anna", "east", claim_bytes=2**40))
    store.save(NodeSeen(NODE, "anna", "west", claim_bytes=0))
    store.save(BanChanged(OTHER, banned=True))
    store.save(Placed(ID, 1, PIPELINE))
    store.save(Placed(ID, 5, PIPELINE))
    store.add_secret(b"s" * 32, 123.5)
    again = Store(url)
    remembered = again.remembered()
    assert remembered.epoch == 5 + EPOCH_MARGIN
    assert remembered.pipelines == {ID: PIPELINE}
    assert remembered.known == {NODE}
    assert remembered.banned == {OTHER}
    assert remembered.secrets == [(b"s" * 32, 123.5)]
    anna = next(row for row in again.nodes() if row["id"] == NODE)
    assert (anna["name"], anna["region"], anna["claim_bytes"]) == ("anna", "west", 2**40)
    again.close()


def test_a_new_store_remembers_nothing(store):
    remembered = store.remembered()
    assert (remembered.epoch, remembered.pipelines, remembered.secrets) == (0, {}, [])


def test_a_ban_can_be_lifted_and_a_banned_node_keeps_its_name(store):
    store.save(NodeSeen(NODE, "anna", "", 5))
    store.save(BanChanged(NODE, banned=True))
    assert store.remembered().banned == {NODE}
    store.save(BanChanged(NODE, banned=False))
    remembered = store.remembered()
    assert not remembered.banned
    assert remembered.known == {NODE}


def test_old_placements_are_dropped(store):
    for epoch in range(1, 130):
        store.save(Placed(ID, epoch, PIPELINE))
    with store._session() as session:
        assert session.scalar(select(func.count()).select_from(PlacementRow)) == 100


def test_tables_of_an_older_version_get_the_columns_that_they_lack(store, url):
    with store._session() as session:
        session.execute(text("DROP TABLE placements"))
        session.execute(text("CREATE TABLE placements (epoch BIGINT PRIMARY KEY, pipeline TEXT, made_s FLOAT)"))
        session.execute(text("INSERT INTO placements VALUES (7, 'something old', 0.0)"))
    again = Store(url)
    assert again.remembered().epoch == 7 + EPOCH_MARGIN
    again.save(Placed(ID, 40, PIPELINE))
    again.save(Placed(PipelineId("model", 1), 41, PIPELINE))
    assert again.remembered().pipelines == {ID: PIPELINE, PipelineId("model", 1): PIPELINE}
    again.close()


def test_a_placement_that_another_version_wrote_is_forgotten(store):
    with store._session() as session:
        session.add(PlacementRow(epoch=3, pipeline='{"other": 1}', made_s=0.0))
    remembered = store.remembered()
    assert remembered.pipelines == {}
    assert remembered.epoch == 3 + EPOCH_MARGIN


def test_a_key_is_shown_once_and_only_its_hash_is_kept(store, tmp_path):
    assert not store.has_keys()
    secret, key = store.add_key("app", requests_per_minute=60, tokens_per_minute=1000, token_limit=10**12)
    assert store.has_keys()
    assert secret.startswith("sk-muster-")
    assert store.verify(secret) == key
    assert store.keys() == [key]
    assert (key.requests_per_minute, key.tokens_per_minute, key.tokens_left, key.revoked) == (60, 1000, 10**12, False)
    for path in tmp_path.glob("pool.db*"):
        assert secret.encode() not in path.read_bytes()


def test_no_file_of_the_store_can_be_read_by_others(tmp_path):
    (tmp_path / "pool.db").touch(0o644)
    tmp_path.chmod(0o755)
    store = Store.at(tmp_path / "pool.db")
    store.add_secret(b"s" * 32, 1e9)
    assert {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {
        "pool.db": 0,
        "pool.db-shm": 0,
        "pool.db-wal": 0,
    }
    store.close()


def test_an_unknown_or_revoked_key_opens_nothing(store):
    secret, key = store.add_key("app")
    assert store.verify(secret + "x") is None
    assert store.revoke_key("app").id == key.id
    assert store.verify(secret) is None
    assert store.keys()[0].revoked
    assert not store.has_keys()


def test_a_key_is_revoked_by_name_or_by_id_and_an_ambiguous_name_is_refused(store):
    _, first = store.add_key("app")
    _, second = store.add_key("app")
    with pytest.raises(InvalidRequest, match="2 keys 'app'"):
        store.revoke_key("app")
    assert store.revoke_key(first.id).id == first.id
    assert store.revoke_key("app").id == second.id
    with pytest.raises(InvalidRequest, match="no key 'nobody'"):
        store.revoke_key("nobody")


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"token_limit": 2**60}])
def test_a_limit_must_be_positive(store, limits):
    with pytest.raises(InvalidRequest, match="positive"):
        store.add_key("app", **limits)


def test_a_key_needs_a_name(store):
    with pytest.raises(InvalidRequest):
        store.add_key(" ")


def test_usage_is_summed_per_key_and_since_a_moment_and_counts_against_the_limit(store, clock):
    secret, key = store.add_key("app", token_limit=2**33 + 20)
    _, other = store.add_key("other")
    store.record_usage(key.id, 10, 5)
    store.record_usage(other.id, 100, 50)
    clock.now_s += 100
    store.record_usage(key.id, 2**33, 1)
    total = store.usage(key.id)
    assert (total.requests, total.prompt_tokens, total.completion_tokens) == (2, 2**33 + 10, 6)
    assert total.total_tokens == 2**33 + 16
    assert store.verify(secret).tokens_left == 4
    assert store.usage(key.id, since_s=clock.now_s).requests == 1
    assert store.usage(other.id).total_tokens == 150
    assert store.usage("999").requests == 0
    store.forget_usage(before_s=clock.now_s)
    assert store.usage(key.id).requests == 1
    assert store.verify(secret).tokens_left == 4
    store.record_usage(key.id, 5, 0)
    assert store.verify(secret).tokens_left == 0


def test_several_threads_may_use_one_store_and_lose_no_count(store):
    _, key = store.add_key("app")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: store.record_usage(key.id, 1, 1), range(40)))
    assert store.usage(key.id).requests == 40
    assert store.keys()[0].tokens_used == 80


@pytest.mark.parametrize("bad", ["sqlite:////no/such/folder/pool.db", "nonsense", "sqlite:////proc/pool.db"])
def test_a_database_that_cannot_be_used_is_named_with_a_remedy(bad):
    with pytest.raises(MachineTrouble, match="check its path or URL"):
        Store(bad)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "pool.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(MachineTrouble, match="not a database"):
        Store.at(tmp_path / "pool.db")
