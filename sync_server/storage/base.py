"""The two storage interfaces. Their calls block: the coordinator calls them from other threads.

Every kind passes the same contract suite (tests/storage). Stores copy in and copy out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from sync_server.domain.configs import Value
from sync_server.domain.leases import Instant, grant
from sync_server.domain.progress import Progress
from sync_server.domain.runs import Event, Run
from sync_server.domain.versions import Version
from sync_server.domain.workers import Worker


class StorageError(Exception):
    """The store failed for a reason outside of the request: a message in one line."""


class NoSpace(StorageError):
    """There is no room for the blob; nothing was written. Retry after space was freed."""


class BlobMissing(StorageError):
    """The blob is not there, or shorter than it was."""


@dataclass
class StoredRun:
    """What survives a restart of one run."""

    run_id: str
    created_at: float
    revision: int
    current: int | None = None
    superseded_max: int | None = None
    workers: list[Worker] = field(default_factory=list)
    generations: dict[str, int] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    config: Mapping[str, Value] | None = None

    def restore(self, revision: int, now: Instant) -> Run:
        """The run as it was stored, at `revision`; every lease starts anew at `now`.

        A server that was away can't know who was alive meanwhile, so its absence loses nobody.
        """
        run = Run(self.run_id, created_at=self.created_at, revision=revision)
        for worker_id, generation in self.generations.items():
            run.workers.remember_generation(worker_id, generation)
        run.workers.restore(
            replace(worker, lease=grant(worker.lease.duration, now)) for worker in self.workers
        )
        run.versions.restore(self.versions, self.current, self.superseded_max)
        for record in self.progress:
            run.progress.put(record)
        run.config = self.config
        return run


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of one transaction of one run, and the pointers as they are after it."""

    run_id: str
    events: Sequence[Event]
    current: int | None
    superseded_max: int | None


class StateStore(Protocol):
    """Keeps runs, workers, versions and revisions."""

    @property
    def in_memory(self) -> bool:
        """Whether nothing waits for a device."""

    def identity(self) -> str:
        """What tells this store from another one; see `ownership`. Raises StorageError."""

    def load(self) -> list[StoredRun]:
        """Everything that was acknowledged. Raises StorageError."""

    def apply(self, batches: Sequence[Batch]) -> None:
        """Stores the batches, in order, all or nothing; on return they survive a crash.

        Raises StorageError; then nothing of them was stored.
        """

    def close(self) -> None:
        """Lets go of files. Safe to call twice."""


class BlobWriter(Protocol):
    """A blob that is being received: there is room for all of it, and it is mapped."""

    @property
    def view(self) -> memoryview:
        """All bytes of the blob, writable; only what `prepare` gave may be touched."""

    @property
    def path(self) -> Path | None:
        """Where a process of this host can write the bytes meanwhile; None: nowhere."""

    def prepare(self, offset: int) -> int:
        """Reserves and warms the next window from `offset` on; gives where it ends.

        Raises NoSpace, StorageError. Other threads may write before `offset` meanwhile.
        """

    def commit(self) -> str:
        """Makes the blob durable and readable under the id that is returned.

        Raises NoSpace, StorageError; then nothing is kept.
        """

    def discard(self) -> None:
        """Drops the bytes. Safe to call twice and after a commit (where it does nothing)."""


class SpareBlob(Protocol):
    """Room for a blob that is yet to come."""

    @property
    def path(self) -> Path | None:
        """As of a BlobWriter, until another name is given to it."""

    def warm(self) -> None:
        """Makes all of it ready, and keeps it for `create`. Raises StorageError."""


class BlobReader(Protocol):
    """A committed blob, open: its bytes stay readable even if it is deleted meanwhile."""

    @property
    def view(self) -> memoryview:
        """All bytes, read-only."""

    def close(self) -> None:
        """Lets go of the mapping. Safe to call twice."""


class BlobStore(Protocol):
    """Keeps safetensors files."""

    @property
    def in_memory(self) -> bool:
        """Whether nothing waits for a device."""

    def create(self, run_id: str, number: int, size_bytes: int) -> BlobWriter:
        """A blob of `size_bytes` (> 0). Raises NoSpace before a byte is accepted, StorageError."""

    def open(self, blob_id: str) -> BlobReader:
        """Opens a committed blob. Raises BlobMissing."""

    def open_file(self, blob_id: str) -> int:
        """A descriptor to read a committed blob from; who asked closes it. Raises BlobMissing.

        It holds a shared `flock`: the file is not taken for another version meanwhile.
        """

    def path(self, blob_id: str) -> Path | None:
        """Where a process of this host can open the blob; None: nowhere.

        Who maps it holds a shared `flock` on it for as long as it reads.
        """

    def spare(self, run_id: str, size_bytes: int) -> SpareBlob | None:
        """What the next blob of that size can be written into; None where that saves no time.

        It takes no room that is needed for anything else. Raises StorageError.
        """

    def delete(self, blob_id: str) -> None:
        """Deletes a blob; open readers go on. A blob that is not there is fine."""

    def sweep(self, keep: set[str]) -> list[str]:
        """Deletes what earlier processes left: half uploads, and blobs that are not in `keep`.

        Touches only files that carry the names this store gives. Returns what was deleted.
        """

    def close(self) -> None:
        """Lets go of locks. Safe to call twice."""
