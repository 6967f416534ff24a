"""The default state store: one SQLite file, WAL, `synchronous=FULL`.

`apply` returns after the transaction was synced, so what was acknowledged survives a crash of
the process and of the machine.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sync_server.domain.applied import Applied
from sync_server.domain.leases import Lease
from sync_server.domain.progress import Progress
from sync_server.domain.runs import (
    ConfigSet,
    Event,
    NothingNew,
    ProgressSaved,
    RunCreated,
    VersionChanged,
    VersionCommitted,
    VersionRemoved,
    WorkerChanged,
    WorkerRemoved,
)
from sync_server.domain.versions import Pin, Pusher, Reference, Source, Version
from sync_server.domain.workers import Role, State, Worker
from sync_server.storage.base import Batch, StorageError, StoredRun
from sync_server.storage.sqlite_file import open_database


class SqliteStateStore:
    """State in `path`. Use it from one thread at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens or creates the file. Raises StorageError if it is not ours, or is too new.

        read_only: only `load`, of a file that exists, also while a server uses it.
        """
        self._db = open_database(path, read_only=read_only)

    @property
    def in_memory(self) -> bool:
        """Every transaction is synced."""
        return False

    def identity(self) -> str:
        """Made with the file."""
        try:
            (identity,) = self._db.execute("SELECT id FROM identity").fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"can't read the state database: {error}") from error
        return str(identity)

    def load(self) -> list[StoredRun]:
        """Everything that was acknowledged."""
        try:
            return [self._load_run(*row) for row in self._db.execute("SELECT * FROM runs")]
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"can't read the state database: {error}") from error

    def apply(self, batches: Sequence[Batch]) -> None:
        """One transaction, synced before it returns."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for batch in batches:
                    for event in batch.events:
                        self._apply_event(batch.run_id, event)
                    if batch.events:
                        self._db.execute(
                            "UPDATE runs SET revision=?, current=?, superseded_max=?"
                            " WHERE run_id=?",
                            (
                                batch.events[-1].revision,
                                batch.current,
                                batch.superseded_max,
                                batch.run_id,
                            ),
                        )
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite ends it by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise
        # Besides SQLite's own: an integer beyond 64 bits, and text that is not Unicode.
        except (sqlite3.Error, OverflowError, ValueError) as error:
            raise StorageError(f"can't write the state database: {error}") from error

    def close(self) -> None:
        """Folds the write-ahead log back and closes the file."""
        self._db.close()

    def _apply_event(self, run_id: str, event: Event) -> None:
        change = event.change
        match change:
            case RunCreated():
                self._db.execute(
                    "INSERT INTO runs VALUES (?, ?, ?, NULL, NULL)",
                    (run_id, event.at, event.revision),
                )
            case WorkerChanged(worker):
                self._put_worker(run_id, worker)
            case WorkerRemoved(worker_id):
                self._db.execute(
                    "DELETE FROM workers WHERE run_id=? AND worker_id=?", (run_id, worker_id)
                )
            case VersionCommitted(version) | VersionChanged(version):
                self._put_version(run_id, version)
            case VersionRemoved(number, _, blob_id, _):
                # By blob: the number may already be in use again.
                gone = self._db.execute(
                    "DELETE FROM versions WHERE run_id=? AND number=? AND blob_id=?",
                    (run_id, number, blob_id),
                )
                if gone.rowcount:
                    self._db.execute(
                        "DELETE FROM pins WHERE run_id=? AND number=?", (run_id, number)
                    )
            case NothingNew():
                pass
            case ProgressSaved(progress):
                self._db.execute(
                    "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)",
                    (
                        run_id,
                        progress.record_id,
                        progress.payload,
                        progress.etag,
                        progress.saved_at,
                    ),
                )
            case ConfigSet(config=config):
                self._db.execute(
                    "INSERT OR REPLACE INTO configs VALUES (?, ?)", (run_id, json.dumps(config))
                )

    def _put_worker(self, run_id: str, worker: Worker) -> None:
        applied = worker.applied
        self._db.execute(
            "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                worker.worker_id,
                worker.role.value,
                worker.state.value,
                worker.generation,
                worker.lease.duration,
                worker.registered_at,
                worker.state_changed_at,
                None if applied is None else applied.version,
                None if applied is None else applied.digest,
                None if applied is None else applied.reported_at,
                None if applied is None else int(applied.verified),
                None if applied is None else applied.finding,
                None if applied is None else applied.problem,
            ),
        )
        self._db.execute(
            "INSERT INTO generations VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
            "SET generation=max(generation, excluded.generation)",
            (run_id, worker.worker_id, worker.generation),
        )

    def _put_version(self, run_id: str, version: Version) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run_id,
                version.number,
                version.digest,
                version.size_bytes,
                version.tensor_count,
                version.blob_id,
                version.tensor_digests,
                version.pusher.worker_id,
                version.pusher.generation,
                version.committed_at,
                version.revision,
                None if version.reference is None else version.reference.source.value,
                None if version.reference is None else version.reference.text,
            ),
        )
        self._db.execute("DELETE FROM pins WHERE run_id=? AND number=?", (run_id, version.number))
        self._db.executemany(
            "INSERT INTO pins VALUES (?, ?, ?, ?)",
            [(run_id, version.number, pin.owner, pin.expires_at) for pin in version.pins],
        )

    def _load_run(
        self,
        run_id: str,
        created_at: float,
        revision: int,
        current: int | None,
        superseded_max: int | None,
    ) -> StoredRun:
        pins: dict[int, list[Pin]] = {}
        for number, owner, expires_at in self._db.execute(
            "SELECT number, owner, expires_at FROM pins WHERE run_id=? ORDER BY owner", (run_id,)
        ):
            pins.setdefault(number, []).append(Pin(owner, expires_at))
        versions = [
            Version(
                number=row[0],
                digest=row[1],
                size_bytes=row[2],
                tensor_count=row[3],
                blob_id=row[4],
                tensor_digests=row[5],
                pusher=Pusher(row[6], row[7]),
                committed_at=row[8],
                revision=row[9],
                pins=tuple(pins.get(row[0], ())),
                reference=None if row[10] is None else Reference(Source(row[10]), row[11]),
            )
            for row in self._db.execute(
                "SELECT number, digest, size_bytes, tensor_count, blob_id, tensor_digests,"
                " pushed_by, pushed_generation, committed_at, revision, source, reference"
                " FROM versions WHERE run_id=? ORDER BY revision",
                (run_id,),
            )
        ]
        workers = [
            _worker(*row[1:])
            for row in self._db.execute(
                "SELECT * FROM workers WHERE run_id=? ORDER BY worker_id", (run_id,)
            )
        ]
        generations = dict(
            self._db.execute(
                "SELECT worker_id, generation FROM generations WHERE run_id=?", (run_id,)
            ).fetchall()
        )
        progress = [
            Progress(*row)
            for row in self._db.execute(
                "SELECT record_id, payload, etag, saved_at FROM progress WHERE run_id=?",
                (run_id,),
            )
        ]
        config = self._db.execute("SELECT config FROM configs WHERE run_id=?", (run_id,)).fetchone()
        return StoredRun(
            run_id,
            created_at,
            revision,
            current,
            superseded_max,
            workers,
            generations,
            versions,
            progress,
            None if config is None else json.loads(config[0]),
        )


def _worker(
    worker_id: str,
    role: str,
    state: str,
    generation: int,
    lease_seconds: float,
    registered_at: float,
    state_changed_at: float,
    applied_version: int | None,
    applied_digest: str | None,
    applied_at: float | None,
    applied_verified: int | None,
    applied_finding: str | None,
    applied_problem: str | None,
) -> Worker:
    applied = None
    if applied_version is not None and applied_digest is not None and applied_at is not None:
        applied = Applied(
            applied_version,
            applied_digest,
            applied_at,
            bool(applied_verified),
            applied_finding or "",
            applied_problem or "",
        )
    # Monotonic time does not outlive a boot: the lease is granted anew on restore.
    lease = Lease(lease_seconds, 0.0)
    return Worker(
        worker_id, Role(role), State(state), generation, lease, registered_at,
        state_changed_at, applied,
    )  # fmt: skip
