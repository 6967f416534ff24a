"""The end of a blocking client: nobody who waits, calls or comes just then is left hanging."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sync_client import SyncClient, WorkerState, errors
from sync_client.loop_thread import LoopThread
from tests.servers import ServerProcess
from tests.until import until


def test_a_closed_client_says_so(server: ServerProcess) -> None:
    client = SyncClient(server.address)
    explorer = client.register("explorer")
    client.close()
    client.close()
    for call in (client.status, lambda: explorer.set_state(WorkerState.RUNNING), client.versions):
        with pytest.raises(errors.ClientClosed):
            call()


def test_closing_ends_what_other_threads_wait_for(server: ServerProcess, run_id: str) -> None:
    client = SyncClient(server.address, run=run_id)
    client.push({"a": torch.ones(1)}, version=1)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(client.wait_version, 1, 60)
        watching = threads.submit(list, client.watch())
        until(lambda: len(client.status().waiters) == 1)
        client.close()
        for future in (waiting, watching):
            assert isinstance(future.exception(timeout=10), errors.ClientClosed)


def test_whoever_comes_while_a_client_closes_is_answered(
    server: ServerProcess, run_id: str
) -> None:
    """Calls that begin at every moment of the end: each is answered, or told that it is closed."""
    with SyncClient(server.address, run=run_id) as first:
        first.push({"a": torch.ones(1)}, version=1)

    def ask(client: SyncClient) -> int:
        answers = 0
        while True:
            try:
                client.status()
                for _ in client.watch(after_revision=10**9):
                    pass
            except errors.ClientClosed:
                return answers
            except errors.SyncError:
                answers += 1

    with ThreadPoolExecutor(4) as threads:
        for _ in range(25):
            client = SyncClient(server.address, run=run_id)
            asking = [threads.submit(ask, client) for _ in range(4)]
            client.status()
            client.close()
            for future in asking:
                future.result(timeout=20)


def test_no_call_is_taken_once_the_end_has_begun() -> None:
    """It might be run by nobody, and who made it would wait for ever."""
    thread = LoopThread()
    ending, go_on = threading.Event(), threading.Event()

    async def slow_to_go() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ending.set()
            await asyncio.to_thread(go_on.wait, 10)

    thread.submit(slow_to_go())
    thread.call(asyncio.sleep(0))
    with ThreadPoolExecutor(1) as threads:
        stopping = threads.submit(thread.stop)
        assert ending.wait(10)
        with pytest.raises(errors.ClientClosed):
            thread.call(asyncio.sleep(0))
        go_on.set()
        stopping.result(timeout=10)
    assert thread.closed


def test_no_thread_outlives_a_client(server: ServerProcess) -> None:
    def ours() -> int:
        return sum(t.name == "weightsync-client" for t in threading.enumerate())

    before = ours()
    for _ in range(5):
        with SyncClient(server.address) as client:
            client.status()
            assert ours() == before + 1
    assert ours() == before
