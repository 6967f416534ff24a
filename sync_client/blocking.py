"""The blocking client: the asynchronous one, driven on a thread of its own.

It is safe to use from several threads. It has no network code: every method hands a coroutine
to the thread's event loop and waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sync_client import errors
from sync_client.aio import AsyncSyncClient
from sync_client.transfer import Progress
from sync_client.types import (
    Pulled,
    RunEvent,
    RunStatus,
    TensorInfo,
    VersionInfo,
    WaitResult,
    WorkerRole,
    WorkerState,
    WorkerStatus,
)
from sync_client.worker import AsyncWorker

if TYPE_CHECKING:
    import torch

R = TypeVar("R")


class LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._run, name="weightsync-client", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, R]) -> R:
        """Runs `work` on the loop and waits. Raises ForkedClient, WrongThread, ClientClosed."""
        try:
            self._check()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: let the call go, too
            raise

    def stop(self) -> None:
        """Ends the thread. Safe to call twice."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    @property
    def closed(self) -> bool:
        """Whether it was stopped."""
        return self._loop.is_closed()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise errors.ForkedClient(
                f"this client was made in process {self._pid} and can't be used in its child "
                f"{os.getpid()}: make a client after the fork"
            )
        if self._loop.is_closed():
            raise errors.ClientClosed("the client is closed")
        if threading.current_thread() is self._thread:
            raise errors.WrongThread(
                "the blocking client was called on its own event loop, where it would wait for "
                "itself: use AsyncSyncClient there"
            )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # not needed, and faster where it is there
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _iterate(thread: LoopThread, items: AsyncIterator[R]) -> Iterator[R]:
    """An asynchronous iterator, item by item, from this thread."""
    end = object()

    async def following() -> Any:
        return await anext(items, end)

    async def close() -> None:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            await aclose()

    try:
        while (item := thread.call(following())) is not end:
            yield item
    finally:
        if not thread.closed:
            thread.call(close())


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

    def wait(self, after: int | None = None, timeout: float | None = None) -> WaitResult:
        """See `AsyncSyncClient.wait`."""
        return self._thread.call(self._aio.wait(after, timeout))

    def watch(self, after_revision: int | None = None) -> Iterator[RunEvent]:
        """See `AsyncSyncClient.watch`."""
        return _iterate(self._thread, self._aio.watch(after_revision))

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
        return _iterate(self._thread, self._aio.iter_tensors(version, names))

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

    def notify_nothing_new(self) -> None:
        """See `AsyncWorker.notify_nothing_new`."""
        self._thread.call(self._aio.notify_nothing_new())

    def wait_version(self, after: int | None = None, timeout: float | None = None) -> int | None:
        """See `AsyncWorker.wait_version`."""
        return self._thread.call(self._aio.wait_version(after, timeout))

    def wait(self, after: int | None = None, timeout: float | None = None) -> WaitResult:
        """See `AsyncWorker.wait`."""
        return self._thread.call(self._aio.wait(after, timeout))

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
        return _iterate(self._thread, self._aio.iter_tensors(version, names))

    def status(self) -> RunStatus:
        """See `AsyncSyncClient.status`."""
        return self._thread.call(self._aio.status())
