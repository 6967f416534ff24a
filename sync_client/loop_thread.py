"""An event loop on a thread, and asynchronous iterators from outside of it."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

from sync_client import errors

R = TypeVar("R")
_LAST_SECONDS = 2.0


class LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = _new_event_loop()
        self._lock = threading.Lock()
        self._ending = False
        self._under_way: set[concurrent.futures.Future[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="weightsync-client", daemon=True)
        self._thread.start()
        _threads.add(self)

    def call(self, work: Coroutine[Any, Any, R]) -> R:
        """Runs `work` on the loop and waits. Raises ForkedClient, WrongThread, ClientClosed."""
        future = self.submit(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise errors.ClientClosed("the client was closed in the middle of the call") from None
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: let the call go, too
            raise

    def submit(self, work: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R]:
        """Begins `work` on the loop, in the order of the submissions. Raises as `call` does."""
        try:
            self._check()
            with self._lock:  # after the end begins nobody would run it
                if self._ending:
                    raise errors.ClientClosed("the client is closed")
                future = asyncio.run_coroutine_threadsafe(work, self._loop)
                self._under_way.add(future)
        except BaseException:
            work.close()
            raise
        future.add_done_callback(self._done)
        return future

    def stop(self) -> None:
        """Ends the thread. Safe to call twice."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    @property
    def closed(self) -> bool:
        """Whether it was stopped."""
        return self._loop.is_closed()

    def _done(self, future: concurrent.futures.Future[Any]) -> None:
        self._under_way.discard(future)

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise errors.ForkedClient(
                f"this client was made in process {self._pid} and can't be used in its child "
                f"{os.getpid()}: close clients before a fork, or start processes with spawn"
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
            with self._lock:
                self._ending = True
            # What was submitted just before becomes a task now, to be cancelled with the others.
            self._loop.run_until_complete(asyncio.sleep(0))
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:  # one that still wants to tell the server something may not hold up the end
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_LAST_SECONDS))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            for future in list(self._under_way):  # of tasks that would not end
                future.cancel()


_threads: weakref.WeakSet[LoopThread] = weakref.WeakSet()


def _stop_all() -> None:
    """At the end of the process: gRPC crashes where one of its loops still runs then."""
    for thread in list(_threads):
        thread.stop()


atexit.register(_stop_all)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # not needed, and faster where it is there
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def iterate(thread: LoopThread, items: AsyncIterator[R]) -> Iterator[R]:
    """An asynchronous iterator, item by item, from this thread."""
    end = object()

    # After Ctrl-C the step that was under way is still being cancelled when `close` comes.
    step = asyncio.Lock()

    async def following() -> Any:
        async with step:
            return await anext(items, end)

    async def close() -> None:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            async with step:
                await aclose()

    try:
        while (item := thread.call(following())) is not end:
            yield item
    finally:
        with contextlib.suppress(errors.ClientClosed):  # it ended all iterators itself
            thread.call(close())
