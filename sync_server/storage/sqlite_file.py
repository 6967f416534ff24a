"""Opening the file of the default state store: is it ours, and of this release?"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sync_server.storage.base import StorageError

SCHEMA_VERSION = 3

_SCHEMA = """
CREATE TABLE runs (
  run_id TEXT PRIMARY KEY, created_at REAL NOT NULL, revision INTEGER NOT NULL,
  current INTEGER, superseded_max INTEGER) STRICT;
CREATE TABLE generations (
  run_id TEXT NOT NULL, worker_id TEXT NOT NULL, generation INTEGER NOT NULL,
  PRIMARY KEY (run_id, worker_id)) STRICT;
CREATE TABLE workers (
  run_id TEXT NOT NULL, worker_id TEXT NOT NULL, role TEXT NOT NULL, state TEXT NOT NULL,
  generation INTEGER NOT NULL, lease_seconds REAL NOT NULL, registered_at REAL NOT NULL,
  state_changed_at REAL NOT NULL, applied_version INTEGER, applied_digest TEXT,
  applied_at REAL, applied_verified INTEGER, applied_finding TEXT, applied_problem TEXT,
  PRIMARY KEY (run_id, worker_id)) STRICT;
CREATE TABLE versions (
  run_id TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL,
  size_bytes INTEGER NOT NULL, tensor_count INTEGER NOT NULL, blob_id TEXT NOT NULL,
  tensor_digests BLOB NOT NULL, pushed_by TEXT NOT NULL, pushed_generation INTEGER NOT NULL,
  committed_at REAL NOT NULL, revision INTEGER NOT NULL, source TEXT, reference TEXT,
  PRIMARY KEY (run_id, number)) STRICT;
CREATE TABLE progress (
  run_id TEXT NOT NULL, record_id TEXT NOT NULL, payload BLOB NOT NULL, etag TEXT NOT NULL,
  saved_at REAL NOT NULL, PRIMARY KEY (run_id, record_id)) STRICT;
CREATE TABLE identity (id TEXT NOT NULL) STRICT;
INSERT INTO identity VALUES (lower(hex(randomblob(16))));
CREATE TABLE configs (run_id TEXT PRIMARY KEY, config TEXT NOT NULL) STRICT;
CREATE TABLE pins (
  run_id TEXT NOT NULL, number INTEGER NOT NULL, owner TEXT NOT NULL, expires_at REAL,
  PRIMARY KEY (run_id, number, owner)) STRICT;
"""

# From each schema to the next one.
_MIGRATIONS = {
    1: "ALTER TABLE versions ADD COLUMN source TEXT;"
    "ALTER TABLE versions ADD COLUMN reference TEXT;",
    2: "ALTER TABLE workers ADD COLUMN applied_finding TEXT;"
    "ALTER TABLE workers ADD COLUMN applied_problem TEXT;",
}


def open_database(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """The database, with our tables in it. Raises StorageError; then the file is as it was."""
    db = None
    try:
        # Autocommit: transactions are begun and ended by hand.
        db = sqlite3.connect(
            _read_only_uri(path) if read_only else path,
            isolation_level=None,
            check_same_thread=False,
            uri=read_only,
        )
        (found,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if found == 0 and tables:
            raise StorageError(f"{path} is another program's database")
        if not 0 <= found <= SCHEMA_VERSION:
            raise StorageError(
                f"the state database {path} has schema {found}, this release knows {SCHEMA_VERSION}"
            )
        if read_only and found != SCHEMA_VERSION:
            raise StorageError(
                f"the state database {path} has the older schema {found}: "
                "start the server of this release once, which brings it up to date"
            )
        if not read_only:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            if found == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            for old in range(found or SCHEMA_VERSION, SCHEMA_VERSION):
                change = f"BEGIN; {_MIGRATIONS[old]} PRAGMA user_version={old + 1}; COMMIT;"
                db.executescript(change)
    except (sqlite3.Error, StorageError) as error:
        if db is not None:
            db.close()
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"can't open the state database {path}: {error}") from error
    return db


def _read_only_uri(path: Path) -> str:
    # Without a log nobody has the file open: then nothing need be written beside it either, which
    # the directory may not allow.
    untouched = "" if path.with_name(path.name + "-wal").exists() else "&immutable=1"
    return f"{path.absolute().as_uri()}?mode=ro{untouched}"
