"""The blocking client: the asynchronous one, driven on a thread of its own.

It is safe to use from several threads. It has no network code: every method hands a coroutine
to the thread's event loop and waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sync_client.aio import AsyncSyncClient
from sync_client.authors import NOBODY, Author
from sync_client.blocking_worker import Worker
from sync_client.health import Health
from sync_client.loop_thread import LoopThread, iterate
from sync_client.progress import ConfigDifference
from sync_client.progress import Progress as ProgressRecord
from sync_client.transfer import Progress
from sync_client.types import (
    Pulled,
    RunEvent,
    RunStatus,
    TensorInfo,
    VersionInfo,
    WaitResult,
    WorkerRole,
)

if TYPE_CHECKING:
    import torch


class SyncClient:
    """A client of one run; see `AsyncSyncClient` for the arguments and for what is raised.

    Use it from any number of threads. It does not survive a fork (ForkedClient): make one in each
    process.
    """

    def __init__(self, server: str | None = None, run: str | None = None, **options: Any) -> None:
        self._aio = AsyncSyncClient(server, run, **options)
        self._thread = LoopThread()

    @property
    def run(self) -> str:
        """The run id."""
        return self._aio.run

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """See `AsyncSyncClient.close`. Safe to call twice."""
        if not self._thread.closed:
            self._thread.call(self._aio.close())
            self._thread.stop()

    def register(
        self, role: WorkerRole | str, name: str | None = None, lease: float = 10.0
    ) -> Worker:
        """See `AsyncSyncClient.register`."""
        return Worker(self._thread, self._thread.call(self._aio.register(role, name, lease)))

    def status(self) -> RunStatus:
        """See `AsyncSyncClient.status`."""
        return self._thread.call(self._aio.status())

    def versions(self) -> list[VersionInfo]:
        """See `AsyncSyncClient.versions`."""
        return self._thread.call(self._aio.versions())

    def tensors(self, version: int | None = None) -> list[TensorInfo]:
        """See `AsyncSyncClient.tensors`."""
        return self._thread.call(self._aio.tensors(version))

    def wait_version(self, after: int | None = None, timeout: float | None = None) -> int | None:
        """See `AsyncSyncClient.wait_version`."""
        return self._thread.call(self._aio.wait_version(after, timeout))

    def wait(
        self,
        after: int | None = None,
        timeout: float | None = None,
        *,
        digest: str = "",
        after_revision: int | None = None,
    ) -> WaitResult:
        """See `AsyncSyncClient.wait`."""
        return self._thread.call(
            self._aio.wait(after, timeout, digest=digest, after_revision=after_revision)
        )

    def watch(self, after_revision: int | None = None) -> Iterator[RunEvent]:
        """See `AsyncSyncClient.watch`."""
        return iterate(self._thread, self._aio.watch(after_revision))

    def push(
        self,
        state_dict: Mapping[str, torch.Tensor],
        version: int,
        *,
        transport: str | None = None,
        delta: bool | None = None,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """See `AsyncSyncClient.push`."""
        return self._thread.call(
            self._aio.push(state_dict, version, transport=transport, delta=delta, progress=progress)
        )

    def publish(
        self,
        version: int,
        *,
        checkpoint_path: str | Path | None = None,
        external_reference: str | None = None,
    ) -> VersionInfo:
        """See `RunClient.publish`."""
        return self._thread.call(
            self._aio.publish(
                version, checkpoint_path=checkpoint_path, external_reference=external_reference
            )
        )

    def notify_nothing_new(self) -> None:
        """See `RunClient.notify_nothing_new`."""
        self._thread.call(self._aio.notify_nothing_new())

    def push_shard(
        self,
        state_dict: Mapping[str, torch.Tensor],
        version: int,
        shard_index: int,
        shard_count: int,
        *,
        author: Author = NOBODY,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """See `AsyncSyncClient.push_shard`."""
        return self._thread.call(
            self._aio.push_shard(
                state_dict, version, shard_index, shard_count, author=author, progress=progress
            )
        )

    def push_file(
        self, path: str | Path, version: int, *, progress: Progress | None = None
    ) -> VersionInfo:
        """See `AsyncSyncClient.push_file`."""
        return self._thread.call(self._aio.push_file(path, version, progress=progress))

    def pull(
        self,
        version: int | None = None,
        into: Mapping[str, torch.Tensor] | None = None,
        names: Sequence[str] | None = None,
        *,
        transport: str | None = None,
        delta: bool | None = None,
        progress: Progress | None = None,
    ) -> Pulled:
        """See `AsyncSyncClient.pull`."""
        return self._thread.call(
            self._aio.pull(
                version, into, names, transport=transport, delta=delta, progress=progress
            )
        )

    def pull_file(
        self,
        path: str | Path,
        version: int | None = None,
        names: Sequence[str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """See `AsyncSyncClient.pull_file`."""
        return self._thread.call(self._aio.pull_file(path, version, names, progress=progress))

    def iter_tensors(
        self, version: int | None = None, names: Sequence[str] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """See `AsyncSyncClient.iter_tensors`."""
        return iterate(self._thread, self._aio.iter_tensors(version, names))

    def pin(self, version: int, owner: str = "client", ttl: float | None = None) -> VersionInfo:
        """See `AsyncSyncClient.pin`."""
        return self._thread.call(self._aio.pin(version, owner, ttl))

    def unpin(self, version: int, owner: str = "client") -> VersionInfo:
        """See `AsyncSyncClient.unpin`."""
        return self._thread.call(self._aio.unpin(version, owner))

    def delete(self, version: int) -> None:
        """See `AsyncSyncClient.delete`."""
        self._thread.call(self._aio.delete(version))

    def rollback(self, version: int) -> VersionInfo:
        """See `AsyncSyncClient.rollback`."""
        return self._thread.call(self._aio.rollback(version))

    def health(self, service: str = "") -> Health:
        """See `AsyncSyncClient.health`."""
        return self._thread.call(self._aio.health(service))

    def ready(self, worker: str, version: int | None = None) -> bool:
        """See `AsyncSyncClient.ready`."""
        return self._thread.call(self._aio.ready(worker, version))

    def save_progress(
        self, name: str, *, kind: str | None = None, etag: str = "", **record: Any
    ) -> str:
        """See `RunClient.save_progress`."""
        return self._thread.call(self._aio.save_progress(name, kind=kind, etag=etag, **record))

    def load_progress(self, name: str) -> ProgressRecord:
        """See `RunClient.load_progress`."""
        return self._thread.call(self._aio.load_progress(name))

    def check_config(
        self, config: Mapping[str, Any], accept_changes: bool = False
    ) -> list[ConfigDifference]:
        """See `RunClient.check_config`."""
        return self._thread.call(self._aio.check_config(config, accept_changes))
