"""One run: its workers, its versions, and the numbered history of every change.

A change is the only currency: decisions produce changes, the store persists them, `Run.apply`
makes them true, and watchers are sent them, all in revision order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from sync_server.domain.configs import Value
from sync_server.domain.errors import RevisionCompacted
from sync_server.domain.leases import Instant
from sync_server.domain.progress import Progress, ProgressBook
from sync_server.domain.versions import Cause, Version, VersionBook
from sync_server.domain.workers import Worker, WorkerTable

HISTORY_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class RunCreated:
    """The run was seen for the first time."""


@dataclass(frozen=True, slots=True)
class WorkerChanged:
    """A worker registered, changed its state, was lost, or reported."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class WorkerRemoved:
    """A worker deregistered."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class VersionCommitted:
    """A version became the one that explorers are given."""

    version: Version


@dataclass(frozen=True, slots=True)
class VersionChanged:
    """A version's pins changed."""

    version: Version


@dataclass(frozen=True, slots=True)
class VersionRemoved:
    """A version can no longer be pulled."""

    number: int
    digest: str
    blob_id: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class NothingNew:
    """The trainer said that there is no new version."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class ProgressSaved:
    """A progress record was saved."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class ConfigSet:
    """The run's configuration was set; sealed, see `configs.seal`."""

    worker_id: str
    config: Mapping[str, Value]


Change = (
    RunCreated
    | WorkerChanged
    | WorkerRemoved
    | VersionCommitted
    | VersionChanged
    | VersionRemoved
    | NothingNew
    | ProgressSaved
    | ConfigSet
)


@dataclass(frozen=True, slots=True)
class Event:
    """A change with its place in the history; `at` in wall seconds."""

    revision: int
    at: float
    change: Change


@dataclass
class Run:
    """The state of one run. Only `apply` changes it."""

    run_id: str
    created_at: float
    revision: int = 0
    workers: WorkerTable = field(default_factory=WorkerTable)
    versions: VersionBook = field(default_factory=VersionBook)
    progress: ProgressBook = field(default_factory=ProgressBook)
    config: Mapping[str, Value] | None = None
    nothing_new_revision: int = 0  # of the last notice; 0: none since the start
    history: deque[Event] = field(default_factory=lambda: deque(maxlen=HISTORY_LIMIT))

    def number(self, changes: Sequence[Change], now: Instant) -> list[Event]:
        """The events that `changes` would become, next to the present revision. Changes nothing."""
        return [
            Event(revision, now.wall, change)
            for revision, change in enumerate(changes, start=self.revision + 1)
        ]

    def pointers_after(self, changes: Sequence[Change]) -> tuple[int | None, int | None]:
        """The book's `current` and `superseded_max` as `changes` will leave them."""
        latest = self.versions.latest()
        served = None if latest is None else latest.blob_id
        for change in changes:
            if isinstance(change, VersionCommitted):
                return self.versions.pointers_at(change.version.number)
            if isinstance(change, VersionRemoved) and change.blob_id == served:
                return self.versions.pointers_at(None)
        return self.versions.current, self.versions.superseded_max

    def apply(self, event: Event) -> None:
        """Makes one event true."""
        if event.revision != self.revision + 1:
            raise ValueError(f"event {event.revision} after revision {self.revision}")
        change = event.change
        match change:
            case RunCreated():
                pass
            case WorkerChanged(worker):
                self.workers.put(worker)
            case WorkerRemoved(worker_id):
                self.workers.remove(worker_id)
            case VersionCommitted(version):
                self.versions.put(version)
                self.versions.point_at(version.number)
            case VersionChanged(version):
                self.versions.put(version)
            case VersionRemoved(number, _, blob_id, cause):
                self.versions.retire(number, blob_id, cause)
            case NothingNew():
                self.nothing_new_revision = event.revision
            case ProgressSaved(progress):
                self.progress.put(progress)
            case ConfigSet(config=config):
                self.config = config
        self.revision = event.revision
        self.history.append(event)

    def events_after(self, revision: int) -> list[Event]:
        """The events after `revision`, oldest first.

        Raises RevisionCompacted where the history no longer reaches back to it (or where it lies
        in a future that a restart took back): start again from a snapshot.
        """
        if revision == self.revision:
            return []
        oldest = self.history[0].revision if self.history else self.revision + 1
        if revision > self.revision or revision < oldest - 1:
            raise RevisionCompacted(
                f"revision {revision} is not in the history "
                f"({oldest - 1} to {self.revision}); watch again from a snapshot",
                oldest=oldest - 1,
                newest=self.revision,
            )
        skip = revision - (oldest - 1)
        return list(islice(self.history, skip, None))

    def commit(self, version: Version, keep: int, now: Instant) -> list[Change]:
        """What a commit of `version` changes: first it becomes visible, then others retire.

        The order matters: there is never a moment without a version to serve.
        """
        version = replace(version, revision=self.revision + 1)
        gone = {
            old.blob_id: (old, Cause.SUPERSEDED)
            for old in self.versions.superseded_by(version.number, now)
            if old.blob_id != version.blob_id
        }
        for old in self.versions.beyond_retention(version, keep, now):
            gone.setdefault(old.blob_id, (old, Cause.RETENTION))
        return [VersionCommitted(version), *(removal(old, cause) for old, cause in gone.values())]


def removal(version: Version, cause: Cause) -> VersionRemoved:
    """The change that retires `version`."""
    return VersionRemoved(version.number, version.digest, version.blob_id, cause)
