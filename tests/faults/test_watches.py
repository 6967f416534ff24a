"""Watches: every revision exactly once and in order, however the connection fares."""

from __future__ import annotations

import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sync_client import RunEvent, SyncClient, WorkerState, errors
from sync_server.domain.runs import HISTORY_LIMIT
from tests.faults.proxy import FaultProxy
from tests.servers import ServerProcess, running_server
from tests.until import until

STATES = itertools.cycle([WorkerState.REQUIRE_SYNC, WorkerState.RUNNING])


def _follow(client: SyncClient, seen: list[RunEvent], last: threading.Event) -> None:
    """Takes events until the worker has stopped."""
    for event in client.watch():
        seen.append(event)
        if event.worker is not None and event.worker.state is WorkerState.STOPPED:
            last.set()
            return


@pytest.mark.parametrize("seed", range(3))
def test_a_watch_that_is_cut_sees_every_revision_once_and_in_order(
    seed: int, proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    source = random.Random(seed)
    explorer = client.register("explorer", "e0")
    way = proxy.arm("down", cut_after=[source.randrange(200, 4000) for _ in range(12)])
    seen: list[RunEvent] = []
    last = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(_follow, far, seen, last)
        until(lambda: seen)
        for _ in range(1500):
            explorer.set_state(next(STATES))
        explorer.set_state(WorkerState.STOPPED)
        following.result(60)
    assert way.cuts >= 5
    assert seen[0].kind == "snapshot"
    first = seen[0].revision
    assert [event.revision for event in seen] == list(range(first, first + len(seen)))
    assert seen[-1].revision == client.status().revision


def test_a_watcher_that_reads_nothing_delays_nobody_and_then_sees_everything(
    proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    explorer = client.register("explorer", "e0")
    watch = far.watch()
    first = next(watch).revision
    with SyncClient(proxy.upstream, run=client.run) as other:
        quick: list[RunEvent] = []
        last = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(_follow, other, quick, last)
            until(lambda: quick)
            proxy.hush()  # the slow one's network stands still
            for _ in range(400):
                explorer.set_state(next(STATES))
            explorer.set_state(WorkerState.STOPPED)
            following.result(30)
        assert not proxy.down.cuts
    proxy.speak()
    newest = client.status().revision
    revisions = [next(watch).revision for _ in range(newest - first)]
    assert revisions == list(range(first + 1, newest + 1))


def test_a_watch_from_a_revision_that_is_gone_says_so_and_the_sdk_starts_over() -> None:
    with running_server() as server, SyncClient(server.address) as client:
        explorer = client.register("explorer", "e0")
        for _ in range(HISTORY_LIMIT + 10):
            explorer.set_state(next(STATES))
        with pytest.raises(errors.RevisionCompacted) as caught:
            _raw_watch(server, after_revision=1)
        assert int(caught.value.metadata["oldest"]) > 1
        event = next(client.watch(after_revision=1))
        assert event.kind == "snapshot"
        assert event.revision == client.status().revision
        # One that the history still holds is resumed.
        event = next(client.watch(after_revision=client.status().revision - 5))
        assert (event.kind, event.revision) == ("worker", client.status().revision - 4)


def _raw_watch(server: ServerProcess, after_revision: int) -> None:
    """What the server itself says, without the SDK's starting over."""
    import grpc

    from sync_client.connection import translate
    from weightsync.v1 import runs_pb2, runs_pb2_grpc

    with grpc.insecure_channel(server.address) as channel:
        request = runs_pb2.WatchRunRequest(name="runs/default", after_revision=after_revision)
        try:
            next(runs_pb2_grpc.RunServiceStub(channel).WatchRun(request, timeout=10))
        except grpc.RpcError as error:
            raise translate(error, server.address) from None  # type: ignore[arg-type]  # the same shape
