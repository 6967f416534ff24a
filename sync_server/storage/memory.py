"""A state store that forgets: for throw-away servers and tests."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from sync_server.domain.runs import Run
from sync_server.storage.base import Batch, StorageError, StoredRun


class MemoryStateStore:
    """Keeps copies of the records in dictionaries; nothing outlives the object."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._closed = False

    @property
    def in_memory(self) -> bool:
        """It does nothing else."""
        return True

    def identity(self) -> str:
        """The same for all: what one of them left behind, nobody misses."""
        return "memory"

    def load(self) -> list[StoredRun]:
        """Everything that was applied to this object."""
        return [
            StoredRun(
                run_id=run.run_id,
                created_at=run.created_at,
                revision=run.revision,
                current=run.versions.current,
                superseded_max=run.versions.superseded_max,
                workers=run.workers.all(),
                generations=run.workers.generations(),
                versions=run.versions.all(),
                progress=run.progress.all(),
                config=deepcopy(run.config),
            )
            for run in self._runs.values()
        ]

    def apply(self, batches: Sequence[Batch]) -> None:
        """Applies the batches. Raises StorageError after `close`."""
        if self._closed:
            raise StorageError("the state store is closed")
        for batch in batches:
            for event in batch.events:
                run = self._runs.get(batch.run_id)
                if run is None:
                    run = self._runs[batch.run_id] = Run(batch.run_id, created_at=event.at)
                # The store follows the coordinator: a restart may leave a gap in the revisions.
                run.revision = event.revision - 1
                run.apply(event)

    def close(self) -> None:
        """Nothing more can be stored."""
        self._closed = True
