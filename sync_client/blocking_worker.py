"""The blocking face of a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sync_client.authors import Author
from sync_client.loop_thread import LoopThread, iterate
from sync_client.transfer import Progress
from sync_client.types import (
    Pulled,
    RunStatus,
    VersionInfo,
    WaitResult,
    WorkerRole,
    WorkerState,
    WorkerStatus,
)
from sync_client.worker import AsyncWorker

if TYPE_CHECKING:
    import torch


class Worker:
    """A trainer or explorer with a live lease; see `AsyncWorker`. Made by `SyncClient.register`."""

    def __init__(self, thread: LoopThread, worker: AsyncWorker) -> None:
        self._thread = thread
        self._aio = worker

    @property
    def name(self) -> str:
        """The worker's name within its run."""
        return self._aio.name

    @property
    def role(self) -> WorkerRole:
        """Trainer or explorer."""
        return self._aio.role

    @property
    def generation(self) -> int:
        """The generation that it holds."""
        return self._aio.generation

    @property
    def state(self) -> WorkerState:
        """The state that it set last."""
        return self._aio.state

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """See `AsyncWorker.close`."""
        if not self._thread.closed:
            self._thread.call(self._aio.close())

    @property
    def author(self) -> Author:
        """In whose name this worker writes: for the other ranks of a trainer."""
        return self._aio.author

    def set_state(
        self, state: WorkerState | str, expected: WorkerState | str | None = None
    ) -> WorkerStatus:
        """See `AsyncWorker.set_state`."""
        return self._thread.call(self._aio.set_state(state, expected))

    def report_applied(self, version: int, state_dict: Mapping[str, torch.Tensor] | str) -> bool:
        """See `AsyncWorker.report_applied`."""
        return self._thread.call(self._aio.report_applied(version, state_dict))

    def push(
        self,
        state_dict: Mapping[str, torch.Tensor],
        version: int,
        *,
        transport: str | None = None,
        delta: bool | None = None,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """See `AsyncWorker.push`."""
        return self._thread.call(
            self._aio.push(state_dict, version, transport=transport, delta=delta, progress=progress)
        )

    def push_shard(
        self,
        state_dict: Mapping[str, torch.Tensor],
        version: int,
        shard_index: int,
        shard_count: int,
        *,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """See `AsyncWorker.push_shard`."""
        return self._thread.call(
            self._aio.push_shard(state_dict, version, shard_index, shard_count, progress=progress)
        )

    def publish(
        self,
        version: int,
        *,
        checkpoint_path: str | Path | None = None,
        external_reference: str | None = None,
    ) -> VersionInfo:
        """See `AsyncWorker.publish`."""
        return self._thread.call(
            self._aio.publish(
                version, checkpoint_path=checkpoint_path, external_reference=external_reference
            )
        )

    def notify_nothing_new(self) -> None:
        """See `AsyncWorker.notify_nothing_new`."""
        self._thread.call(self._aio.notify_nothing_new())

    def wait_version(self, after: int | None = None, timeout: float | None = None) -> int | None:
        """See `AsyncWorker.wait_version`."""
        return self._thread.call(self._aio.wait_version(after, timeout))

    def wait(
        self,
        after: int | None = None,
        timeout: float | None = None,
        *,
        digest: str = "",
        after_revision: int | None = None,
    ) -> WaitResult:
        """See `AsyncWorker.wait`."""
        return self._thread.call(
            self._aio.wait(after, timeout, digest=digest, after_revision=after_revision)
        )

    def pull(
        self,
        version: int | None = None,
        into: Mapping[str, torch.Tensor] | None = None,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Pulled:
        """See `AsyncSyncClient.pull`."""
        return self._thread.call(self._aio.pull(version, into, names, **options))

    def iter_tensors(
        self, version: int | None = None, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """See `AsyncSyncClient.iter_tensors`."""
        return iterate(self._thread, self._aio.iter_tensors(version, names))

    def status(self) -> RunStatus:
        """See `AsyncSyncClient.status`."""
        return self._thread.call(self._aio.status())

    def wait_fresh(self, max_lag: int, timeout: float | None = None) -> bool:
        """See `AsyncWorker.wait_fresh`."""
        return self._thread.call(self._aio.wait_fresh(max_lag, timeout))

    def wait_converged(
        self,
        version: int,
        fraction: float | None = None,
        count: int | None = None,
        timeout: float | None = None,
    ) -> list[str]:
        """See `AsyncWorker.wait_converged`."""
        return self._thread.call(self._aio.wait_converged(version, fraction, count, timeout))

    def save_progress(self, name: str | None = None, *, etag: str = "", **record: Any) -> str:
        """See `AsyncWorker.save_progress`."""
        return self._thread.call(self._aio.save_progress(name, etag=etag, **record))
