"""Whoever dies, hangs, or is cut off is noticed within its lease and a second, and nobody else is.

`WEIGHTSYNC_PAUSES=600 pytest tests/faults/test_lost_workers.py -k pauses` is the long form: ten
minutes of pauses of 0.3 leases.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sync_client import SyncClient, WorkerState
from tests.faults.namespaces import Hosts, missing, two_hosts
from tests.faults.processes import running_worker
from tests.servers import running_server
from tests.until import until

LEASE = 2.0
PAUSES = float(os.environ.get("WEIGHTSYNC_PAUSES", "12"))
WEIGHTSYNC = [sys.executable, "-m", "sync_server"]


class Watch:
    """The lines of `weightsync watch --json` as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._seen: list[dict[str, object]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._seen.append(json.loads(line))

    def began(self) -> bool:
        """Whether the snapshot came."""
        return bool(self._seen)

    def times(self, name: str, state: str) -> list[float]:
        """When (Unix seconds) `name` was seen to enter `state`."""
        found = []
        for event in self._seen:
            worker = event.get("worker")
            if isinstance(worker, dict) and (worker["name"], worker["state"]) == (name, state):
                found.append(float(str(event["time"])))
        return found


@contextmanager
def watching(server: str, prefix: Sequence[str] = ()) -> Iterator[Watch]:
    """A watch from a process of its own."""
    command = [*prefix, *WEIGHTSYNC, "watch", "--server", server, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        watch = Watch(process)
        until(watch.began)
        yield watch
    finally:
        process.kill()
        process.communicate()


@contextmanager
def served_in_a_namespace(hosts: Hosts, directory: Path) -> Iterator[str]:
    """The server on one of the two hosts; gives its address."""
    ready = directory / "ready.json"
    command = [
        *hosts.on(hosts.server),
        *(*WEIGHTSYNC, "serve", "--insecure", "--listen", f"{hosts.address}:0"),
        *("--data-dir", str(directory / "data"), "--ready-file", str(ready)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(ready.exists)
        yield str(json.loads(ready.read_text())["grpc"])
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_a_killed_explorer_is_lost_within_its_lease_and_a_second() -> None:
    with (
        running_server() as server,
        running_worker(server.address, "explorer", "e0", LEASE) as worker,
        watching(server.address) as watch,
    ):
        killed = time.time()
        worker.signal(signal.SIGKILL)
        lost = until(lambda: watch.times("e0", "LOST"))
        assert lost[0] - killed <= LEASE + 1
        with SyncClient(server.address) as client:
            assert client.status().explorer_state_counts == {WorkerState.LOST: 1}


def test_a_stopped_explorer_is_lost_in_time_and_comes_back_by_itself() -> None:
    with (
        running_server() as server,
        running_worker(server.address, "explorer", "e0", LEASE) as worker,
        watching(server.address) as watch,
    ):
        stopped = time.time()
        worker.signal(signal.SIGSTOP)
        lost = until(lambda: watch.times("e0", "LOST"))
        assert lost[0] - stopped <= LEASE + 1
        worker.signal(signal.SIGCONT)
        until(lambda: watch.times("e0", "RUNNING"))
        with SyncClient(server.address) as client:
            assert client.status().workers[0].generation == 1  # nobody took the name over


@pytest.mark.skipif(bool(missing()), reason=missing() or "namespaces are to be had")
def test_an_explorer_behind_a_black_hole_is_lost_in_time_and_comes_back(tmp_path: Path) -> None:
    with (
        two_hosts() as hosts,
        served_in_a_namespace(hosts, tmp_path) as address,
        running_worker(address, "explorer", "e0", LEASE, prefix=hosts.on(hosts.client)),
        watching(address, hosts.on(hosts.server)) as watch,
    ):
        cut = time.time()
        hosts.wire("down")
        lost = until(lambda: watch.times("e0", "LOST"))
        assert lost[0] - cut <= LEASE + 1
        hosts.wire("up")
        until(lambda: watch.times("e0", "RUNNING"), timeout=30)


def test_a_paused_trainer_that_was_replaced_is_refused_when_it_wakes() -> None:
    with (
        running_server() as server,
        running_worker(server.address, "trainer", "trainer", LEASE) as old,
    ):
        old.push(1)
        assert old.answer() == "pushed 1"
        old.signal(signal.SIGSTOP)
        with running_worker(server.address, "trainer", "trainer", LEASE) as new:
            new.push(2)
            assert new.answer() == "pushed 2"
            old.push(3)
            old.signal(signal.SIGCONT)
            assert old.answer() == "StaleGeneration"
            with SyncClient(server.address) as client:
                assert client.status().latest_version == 2


@pytest.mark.timeout(PAUSES + 120)
def test_pauses_of_a_third_of_the_lease_lose_nobody() -> None:
    rng = random.Random(5)
    names = [f"e{index}" for index in range(4)]
    with ExitStack() as stack:
        server = stack.enter_context(running_server())
        workers = [
            stack.enter_context(running_worker(server.address, "explorer", name, LEASE))
            for name in names
        ]
        watch = stack.enter_context(watching(server.address))
        end = time.monotonic() + PAUSES
        pause = threading.Event()
        while time.monotonic() < end:
            worker = rng.choice(workers)
            worker.signal(signal.SIGSTOP)
            pause.wait(0.3 * LEASE)
            worker.signal(signal.SIGCONT)
            pause.wait(rng.uniform(0, 0.3))
        assert {name: watch.times(name, "LOST") for name in names} == {name: [] for name in names}
        with SyncClient(server.address) as client:
            assert client.status().explorer_state_counts == {WorkerState.RUNNING: 4}
