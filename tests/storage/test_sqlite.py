"""The default store: the contract, and what only a file can go through."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sync_server.domain.runs import NothingNew, RunCreated, VersionCommitted, WorkerChanged
from sync_server.storage.base import Batch, StateStore, StorageError
from sync_server.storage.sqlite import SqliteStateStore
from sync_server.storage.sqlite_file import SCHEMA_VERSION
from tests.storage.records import VERSION, WORKER, batch
from tests.storage.state_contract import StateStoreContract


class TestSqliteStateStore(StateStoreContract):
    """The contract, in a file."""

    def open_store(self, directory: Path) -> StateStore:
        """A file of its own."""
        return SqliteStateStore(directory / "state.sqlite3")


def test_what_was_applied_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    before = SqliteStateStore(path)
    before.apply([batch(RunCreated(), WorkerChanged(WORKER), VersionCommitted(VERSION), current=7)])
    loaded = before.load()
    before.close()
    again = SqliteStateStore(path)
    assert again.load() == loaded
    again.close()


# What release 0.1 made, before versions could be elsewhere.
_SCHEMA_1 = """
CREATE TABLE runs (run_id TEXT PRIMARY KEY, created_at REAL NOT NULL, revision INTEGER NOT NULL,
  current INTEGER, superseded_max INTEGER) STRICT;
CREATE TABLE generations (run_id TEXT NOT NULL, worker_id TEXT NOT NULL,
  generation INTEGER NOT NULL, PRIMARY KEY (run_id, worker_id)) STRICT;
CREATE TABLE workers (
  run_id TEXT NOT NULL, worker_id TEXT NOT NULL, role TEXT NOT NULL, state TEXT NOT NULL,
  generation INTEGER NOT NULL, lease_seconds REAL NOT NULL, registered_at REAL NOT NULL,
  state_changed_at REAL NOT NULL, applied_version INTEGER, applied_digest TEXT,
  applied_at REAL, applied_verified INTEGER, PRIMARY KEY (run_id, worker_id)) STRICT;
CREATE TABLE versions (
  run_id TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL,
  size_bytes INTEGER NOT NULL, tensor_count INTEGER NOT NULL, blob_id TEXT NOT NULL,
  tensor_digests BLOB NOT NULL, pushed_by TEXT NOT NULL, pushed_generation INTEGER NOT NULL,
  committed_at REAL NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (run_id, number)) STRICT;
CREATE TABLE progress (run_id TEXT NOT NULL, record_id TEXT NOT NULL, payload BLOB NOT NULL,
  etag TEXT NOT NULL, saved_at REAL NOT NULL, PRIMARY KEY (run_id, record_id)) STRICT;
CREATE TABLE identity (id TEXT NOT NULL) STRICT;
INSERT INTO identity VALUES ('0123456789abcdef');
CREATE TABLE configs (run_id TEXT PRIMARY KEY, config TEXT NOT NULL) STRICT;
CREATE TABLE pins (run_id TEXT NOT NULL, number INTEGER NOT NULL, owner TEXT NOT NULL,
  expires_at REAL, PRIMARY KEY (run_id, number, owner)) STRICT;
INSERT INTO runs VALUES ('r', 1.5, 9, 7, NULL);
INSERT INTO versions VALUES ('r', 7, 'd', 100, 2, 'b', x'00ff', 't', 3, 2.5, 2);
INSERT INTO pins VALUES ('r', 7, 'me', NULL);
PRAGMA user_version=1;
"""


def test_the_file_of_an_older_release_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(_SCHEMA_1)
    with pytest.raises(StorageError, match="start the server of this release once"):
        SqliteStateStore(path, read_only=True)
    for revision in (9, 10):
        store = SqliteStateStore(path)
        assert store.identity() == "0123456789abcdef"
        (run,) = store.load()
        assert (run.revision, run.current) == (revision, 7)
        (version,) = run.versions
        assert (version.number, version.digest, version.reference) == (7, "d", None)
        assert [pin.owner for pin in version.pins] == ["me"]
        store.apply([batch(VersionCommitted(VERSION), after=9, current=7)])
        store.apply([batch(VersionCommitted(version), after=9, current=7)])
        store.close()
    with closing(SqliteStateStore(path, read_only=True)) as reader:
        assert reader.load()[0].versions == [version]


# --- all or nothing

BAD = replace(WORKER, generation=2**63)


@pytest.mark.parametrize(
    "bad",
    [
        batch(WorkerChanged(BAD), after=2),
        batch(WorkerChanged(replace(WORKER, worker_id="\udc80")), after=2),
        batch(WorkerChanged(WORKER), RunCreated(), after=2),
        batch(VersionCommitted(replace(VERSION, digest=None)), after=2),  # type: ignore[arg-type]  # a fault on purpose
    ],
    ids=["beyond 64 bits", "no Unicode", "a run twice", "a null"],
)
def test_a_batch_that_fails_takes_its_whole_transaction_along(tmp_path: Path, bad: Batch) -> None:
    store = SqliteStateStore(tmp_path / "state.sqlite3")
    store.apply([batch(RunCreated(), WorkerChanged(WORKER))])
    before = store.load()
    good = batch(RunCreated(), VersionCommitted(VERSION), run_id="other", current=7)
    with pytest.raises(StorageError):
        store.apply([good, bad, batch(NothingNew("t"), after=9)])
    assert store.load() == before
    store.apply([good])  # and the store is as good as before
    assert len(store.load()) == 2
    store.close()


# --- a crash

APPLIER = """
import sys
from pathlib import Path
from sync_server.storage.sqlite import SqliteStateStore
from tests.storage.records import step

store = SqliteStateStore(Path(sys.argv[1]))
stored = store.load()
index = stored[0].revision if stored else 0
while True:
    index += 1
    store.apply([step(index)])
    print(index, flush=True)
"""


def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    acknowledged = 0
    for round_ in range(3):  # each round goes on where the last one was killed
        with subprocess.Popen(
            [sys.executable, "-c", APPLIER, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(37 + 61 * round_):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            # What is still in the pipe was acknowledged too; the last line may be cut.
            rest = process.stdout.read().split("\n")
            acknowledged = max([acknowledged, *[int(line) for line in rest[:-1]]])
            process.wait()
        store = SqliteStateStore(path)
        (stored,) = store.load()
        store.close()
        # One more may have been stored without its acknowledgement having been written.
        assert acknowledged <= stored.revision <= acknowledged + 1
        assert sorted(v.number for v in stored.versions) == [*range(1, stored.revision // 2 + 1)]
        last_odd = stored.revision - (stored.revision + 1) % 2
        assert stored.generations == ({"w": last_odd} if last_odd > 1 else {})


# --- files that are not ours


def test_a_file_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    SqliteStateStore(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(StorageError, match=f"has schema {SCHEMA_VERSION + 1}"):
        SqliteStateStore(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="another program's database"):
        SqliteStateStore(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    path.write_bytes(b"dear diary " * 500)
    with pytest.raises(StorageError, match="can't open the state database"):
        SqliteStateStore(path)
    assert path.read_bytes() == b"dear diary " * 500


def test_a_damaged_table_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    store = SqliteStateStore(path)
    store.apply([batch(RunCreated(), WorkerChanged(WORKER))])
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE workers SET role='janitor'")
        other.commit()
    with pytest.raises(StorageError, match="janitor"):
        store.load()
    store.close()


@pytest.mark.parametrize("where", ["nowhere/state.sqlite3", "file/state.sqlite3", "directory"])
def test_a_path_that_can_not_be_written_is_said_in_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageError, match="can't open the state database") as caught:
        SqliteStateStore(tmp_path / where)
    assert "\n" not in str(caught.value)


def test_reading_beside_a_running_server(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    store = SqliteStateStore(path)
    store.apply([batch(RunCreated(), WorkerChanged(WORKER))])
    reader = SqliteStateStore(path, read_only=True)
    assert reader.load() == store.load()
    with pytest.raises(StorageError):
        reader.apply([batch(NothingNew("t"), after=2)])
    reader.close()
    store.close()
    with pytest.raises(StorageError):
        SqliteStateStore(tmp_path / "nothing", read_only=True)
    assert not (tmp_path / "nothing").exists()
