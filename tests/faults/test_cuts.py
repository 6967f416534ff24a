"""Connections that end, drip or fall silent in the middle of everything."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest
from tests.faults.proxy import FaultProxy
from tests.servers import ServerProcess
from tests.until import until

MIB = 1 << 20
WEIGHTS = {f"layer.{index}": torch.full((MIB,), float(index)) for index in range(8)}  # 32 MiB
DIGEST = state_dict_digest(WEIGHTS)
SMALL = {"a": torch.ones(3)}


def distances(seed: int, count: int, most: int) -> list[int]:
    """Random distances between cuts, in bytes."""
    source = random.Random(seed)
    return [source.randrange(1, most) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
def test_a_pull_that_is_cut_at_random_points(
    seed: int, proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    info = client.push(WEIGHTS, version=1)
    way = proxy.arm("down", cut_after=distances(seed, 6, 5 * MIB))
    into = {name: torch.zeros_like(tensor) for name, tensor in WEIGHTS.items()}
    pulled = far.pull(1, into=into)
    assert way.cuts == 6
    assert state_dict_digest(into) == pulled.digest == DIGEST
    assert pulled.wire_bytes == info.size  # each byte once, for all the cuts


def test_a_pull_that_is_cut_at_its_very_beginning(
    proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    client.push(WEIGHTS, version=1)
    # In the handshake, the headers, the first message, the tensors' header.
    way = proxy.arm("down", cut_after=[1, 9, 30, 60, 100, 200, 400, 700, 1500])
    assert far.pull(1).digest == DIGEST
    assert way.cuts == 9


def test_a_pull_whose_requests_are_cut(
    proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    client.push(WEIGHTS, version=1)
    way = proxy.arm("up", cut_after=[1, 20, 60, 120, 200])
    assert far.pull(1).digest == DIGEST
    assert way.cuts == 5


def test_files_and_iterators_resume(
    proxy: FaultProxy, far: SyncClient, client: SyncClient, tmp_path: Path
) -> None:
    client.push(WEIGHTS, version=1)
    way = proxy.arm("down", cut_after=distances(11, 4, 6 * MIB))
    file = tmp_path / "model.safetensors"
    assert far.pull_file(file, 1).digest == DIGEST
    assert way.cuts == 4
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    way = proxy.arm("down", cut_after=distances(12, 4, 6 * MIB))
    assert state_dict_digest(dict(far.iter_tensors(1))) == DIGEST
    assert way.cuts == 4


@pytest.mark.parametrize("seed", range(3))
def test_a_push_that_is_cut_is_sent_again(
    seed: int, proxy: FaultProxy, far: SyncClient, client: SyncClient, server: ServerProcess
) -> None:
    way = proxy.arm("up", cut_after=distances(seed, 4, 20 * MIB))
    info = far.push(WEIGHTS, version=1)
    assert way.cuts == 4
    assert info.digest == DIGEST
    assert [version.version for version in client.versions()] == [1]
    assert client.pull(1).digest == DIGEST
    until(lambda: _files(server, client.run) == 1)


def _files(server: ServerProcess, run_id: str) -> int:
    return sum(name.startswith(f"{run_id}/") for name in server.blobs())


@pytest.mark.parametrize("leased", [False, True])
def test_a_push_whose_answer_is_cut_is_not_made_twice(
    leased: bool, proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    pusher = far.register("trainer") if leased else far

    def lose_the_answer(done: int, total: int) -> None:
        if done == total and not ways:
            proxy.hush()
            ways.append(proxy.arm("down", cut_after=[1]))
            proxy.speak()

    ways: list[object] = []
    info = pusher.push(WEIGHTS, version=1, progress=lose_the_answer)
    assert ways
    assert info == client.versions()[0]
    assert len(client.versions()) == 1
    assert info.revision == client.status().revision  # one commit


def test_a_link_that_stays_cut_is_a_clear_error_and_no_torn_version(
    server: ServerProcess, proxy: FaultProxy, client: SyncClient
) -> None:
    client.push(SMALL, version=1)
    with SyncClient(proxy.address, run=client.run, retry_for=1.0) as far:
        proxy.arm("up", cut_after=[10 * MIB, *([1000] * 1000)])
        with pytest.raises(errors.ServerUnavailable):
            far.push(WEIGHTS, version=2)
        assert [version.version for version in client.versions()] == [1]
        until(lambda: _files(server, client.run) == 1)
        client.push(WEIGHTS, version=2)
        proxy.arm("down", cut_after=[10 * MIB, *([1000] * 1000)])
        proxy.arm("up")
        with pytest.raises(errors.ServerUnavailable):
            far.pull(2)
        proxy.calm()
        assert far.pull(2).digest == DIGEST


def test_a_wait_and_a_watch_go_on_after_cuts(
    proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    client.push(SMALL, version=1)
    events = far.watch()
    snapshot = next(events)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(far.wait_version, 1, 60)
        for _ in range(4):
            until(lambda: len(client.status().waiters) == 1)
            proxy.cut()
            until(lambda: len(client.status().waiters) == 0)
        client.pin(1, owner="me")
        client.push(SMALL, version=2)
        assert waiting.result(timeout=15) == 2
    found = [next(events), next(events)]
    assert [event.revision for event in found] == [snapshot.revision + 1, snapshot.revision + 2]
    assert [event.kind for event in found] == ["weight_version", "weight_version"]


def test_heartbeats_survive_cuts(proxy: FaultProxy, far: SyncClient, client: SyncClient) -> None:
    worker = far.register("explorer", name="explorer-0", lease=3.0)
    for _ in range(5):
        proxy.cut()
        worker.set_state("REQUIRE_SYNC")
        worker.set_state("RUNNING")
    (found,) = client.status().workers
    assert (found.generation, found.state) == (1, "RUNNING")


def test_a_slow_link_delivers_in_the_end(
    proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    state_dict = {"a": torch.arange(100_000)}
    proxy.arm("up", drip_bytes=8192, delay=0.002)
    proxy.arm("down", drip_bytes=8192, delay=0.002)
    info = far.push(state_dict, version=1)
    assert far.pull(1).digest == info.digest == state_dict_digest(state_dict)


def test_a_link_that_is_silent_for_a_while(
    proxy: FaultProxy, far: SyncClient, client: SyncClient
) -> None:
    client.push(WEIGHTS, version=1)

    def fall_silent(done: int, total: int) -> None:
        if done > total // 2 and not silent:
            silent.append(done)
            proxy.hush()

    silent: list[int] = []
    with ThreadPoolExecutor(1) as threads:
        pulling = threads.submit(far.pull, 1, progress=fall_silent)
        until(lambda: silent)
        assert client.wait_version(after=1, timeout=1.0) is None  # a second of silence
        assert not pulling.done()
        proxy.speak()
        assert pulling.result(timeout=20).digest == DIGEST


def test_a_link_that_falls_silent_for_good_is_noticed(
    proxy: FaultProxy, client: SyncClient
) -> None:
    client.push(SMALL, version=1)
    with (
        SyncClient(proxy.address, run=client.run, retry_for=0.5) as far,
        ThreadPoolExecutor(1) as threads,
    ):
        far.status()
        events = far.watch()
        next(events)
        proxy.hush()
        started = time.monotonic()
        watching = threads.submit(next, events)
        # Pings go out every 10 s and are answered within 10 s, or the link is dead.
        assert isinstance(watching.exception(timeout=60), errors.ServerUnavailable)
        assert time.monotonic() - started < 40
        proxy.speak()
