"""The server dies (SIGKILL) in the middle of everything, and comes back; or does not."""

from __future__ import annotations

import concurrent.futures
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest
from tests.client.test_pushing import Recorder
from tests.servers import ServerProcess, running_server
from tests.until import until

BIG = {f"layer.{index}": torch.full((1 << 21,), float(index)) for index in range(8)}
SMALL = {"a": torch.ones(3)}


@pytest.fixture
def mortal() -> Iterator[ServerProcess]:
    """A server of this test alone."""
    with running_server() as server:
        yield server


@pytest.fixture
def survivor(mortal: ServerProcess) -> Iterator[SyncClient]:
    """A client that is patient for longer than a restart takes."""
    with SyncClient(mortal.address, retry_for=30) as client:
        yield client


class InTheMiddle(Recorder):
    """A progress callback that does something once, when more than a half is done."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self._act = act
        self.acted = False

    def __call__(self, done: int, total: int) -> None:
        super().__call__(done, total)
        if not self.acted and done > total // 2:
            self.acted = True
            self._act()


def test_a_wait_goes_on(mortal: ServerProcess, survivor: SyncClient) -> None:
    survivor.push(SMALL, version=1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(survivor.wait_version, 1, 60)
        until(lambda: len(survivor.status().waiters) == 1)
        mortal.restart()
        until(lambda: len(survivor.status().waiters) == 1)
        assert not waiting.done()
        survivor.push(SMALL, version=2)
        assert waiting.result(timeout=10) == 2


def test_a_wait_ends_in_time_although_the_server_is_away(
    mortal: ServerProcess, survivor: SyncClient
) -> None:
    survivor.push(SMALL, version=1)
    with ThreadPoolExecutor(1) as threads:
        started = time.monotonic()
        waiting = threads.submit(survivor.wait_version, 1, 2.0)
        until(lambda: len(survivor.status().waiters) == 1)
        mortal.kill()
        assert isinstance(waiting.exception(timeout=20), errors.ServerUnavailable)
        assert 1.5 < time.monotonic() - started < 8


def test_a_watch_goes_on_and_gives_each_revision_once(
    mortal: ServerProcess, survivor: SyncClient
) -> None:
    survivor.push(SMALL, version=1)
    events = survivor.watch()
    assert next(events).kind == "snapshot"
    survivor.push(SMALL, version=2)
    assert next(events).kind == "weight_version"
    mortal.restart()
    survivor.push(SMALL, version=3)
    found = []
    for event in events:
        found.append(event)
        latest = event.snapshot.latest if event.snapshot is not None else event.version
        if latest is not None and latest.version == 3:
            break
    revisions = [event.revision for event in found]
    assert revisions == sorted(set(revisions))
    assert revisions[-1] <= survivor.status().revision


@pytest.mark.parametrize("into", [False, True])
def test_a_pull_resumes_where_it_broke_off(
    into: bool, mortal: ServerProcess, survivor: SyncClient
) -> None:
    info = survivor.push(BIG, version=1)
    said = InTheMiddle(mortal.restart)
    target = {name: torch.zeros_like(tensor) for name, tensor in BIG.items()} if into else None
    pulled = survivor.pull(1, into=target, progress=said)
    assert said.acted
    said.check(info.size)
    assert pulled.wire_bytes == info.size  # no byte came twice
    assert state_dict_digest(pulled.state_dict) == pulled.digest == info.digest


def test_pull_file_and_iter_tensors_resume_too(
    mortal: ServerProcess, survivor: SyncClient, tmp_path: Path
) -> None:
    info = survivor.push(BIG, version=1)
    said = InTheMiddle(mortal.restart)
    survivor.pull_file(tmp_path / "model.safetensors", 1, progress=said)
    assert said.acted
    assert (tmp_path / "model.safetensors").stat().st_size == info.size
    found = {}
    for name, tensor in survivor.iter_tensors(1):
        found[name] = tensor
        if len(found) == 2:
            mortal.restart()
    assert state_dict_digest(found) == info.digest


@pytest.mark.parametrize("leased", [False, True])
def test_a_push_is_sent_again(leased: bool, mortal: ServerProcess, survivor: SyncClient) -> None:
    pusher = survivor.register("trainer") if leased else survivor
    said = InTheMiddle(mortal.restart)
    info = pusher.push(BIG, version=1, progress=said)
    assert said.acted
    assert info.digest == state_dict_digest(BIG)
    assert [version.version for version in survivor.versions()] == [1]
    assert state_dict_digest(survivor.pull(1).state_dict) == info.digest
    left = [name for name in mortal.blobs() if not name.endswith(".spare")]
    assert len(left) == 1  # and nothing of the first attempt
    assert info.pushed_by == ("trainer" if leased else "")


def test_a_push_whose_answer_was_lost_is_not_made_twice(
    mortal: ServerProcess, survivor: SyncClient
) -> None:
    first = survivor.push(SMALL, version=1)
    mortal.restart()
    assert survivor.push(SMALL, version=1) == first
    assert [version.version for version in survivor.versions()] == [1]


def test_a_version_that_the_server_forgot_is_a_clear_error() -> None:
    with (
        running_server(options=["--state-store", "memory"]) as server,
        SyncClient(server.address, run="short", retry_for=30) as client,
    ):
        client.push(BIG, version=1)
        with pytest.raises(errors.RunNotFound):
            client.pull(1, progress=InTheMiddle(server.restart))
        assert server.blobs() == {}  # what nobody knows any more is swept


@pytest.mark.parametrize("call", ["status", "push", "pull", "register"])
def test_a_server_that_does_not_come_back(call: str, mortal: ServerProcess) -> None:
    with SyncClient(mortal.address, retry_for=1.0) as client:
        client.push(BIG, version=1)
        works: dict[str, Callable[[], object]] = {
            "status": client.status,
            "push": lambda: client.push(BIG, 2, progress=InTheMiddle(mortal.kill)),
            "pull": lambda: client.pull(1, progress=InTheMiddle(mortal.kill)),
            "register": lambda: client.register("explorer"),
        }
        if call in ("status", "register"):
            mortal.kill()
        started = time.monotonic()
        with pytest.raises(errors.ServerUnavailable, match=mortal.address):
            works[call]()
        assert 0.5 < time.monotonic() - started < 10


def test_a_port_where_nobody_listens_is_said_within_retry_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for retry_for in (0.0, 1.5):
            with SyncClient(address, retry_for=retry_for) as client:
                started = time.monotonic()
                with pytest.raises(errors.ServerUnavailable, match=address):
                    client.status()
                assert retry_for - 0.1 <= time.monotonic() - started < retry_for + 3


def test_a_server_that_only_paused_loses_nobody(
    mortal: ServerProcess, survivor: SyncClient
) -> None:
    survivor.push(SMALL, version=1)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(survivor.wait_version, 1, 60)
        until(lambda: len(survivor.status().waiters) == 1)
        mortal.pause()
        pushing = threads.submit(survivor.push, SMALL, 2)
        with pytest.raises(concurrent.futures.TimeoutError):
            pushing.result(timeout=0.5)
        mortal.resume()
        assert pushing.result(timeout=15).version == 2
        assert waiting.result(timeout=15) == 2
