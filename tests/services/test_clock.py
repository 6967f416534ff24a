"""The server's clock: nobody is lost for a stall of the server, and who is gone is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_client import SyncClient, WorkerState
from sync_server.clock import ServerClock
from tests.servers import ServerProcess, running_server
from tests.until import until

STALL = 1.0
TICK = 0.1


class FakeTime:
    """Both clocks of a machine, moved by hand."""

    def __init__(self, start: float = 0.0) -> None:
        self.monotonic = start
        self.wall = 1_700_000_000.0

    def clock(self) -> ServerClock:
        """A server's clock over them."""
        return ServerClock(lambda: self.monotonic, lambda: self.wall)


STARTS = st.floats(0, 1e8)
GAPS = st.lists(st.floats(0, 1e6) | st.floats(0, 1.1), max_size=50)


@given(STARTS, GAPS)
def test_time_never_goes_back(start: float, gaps: list[float]) -> None:
    fake = FakeTime(start)
    clock = fake.clock()
    last = clock().monotonic
    for gap in gaps:
        fake.monotonic += gap
        now = clock().monotonic
        assert now >= last
        last = now


@given(STARTS, GAPS)
def test_a_stall_of_any_length_counts_one_tick(start: float, gaps: list[float]) -> None:
    fake = FakeTime(start)
    clock = fake.clock()
    for gap in gaps:
        before, real = clock().monotonic, fake.monotonic
        fake.monotonic += gap
        passed = fake.monotonic - real  # what is left of the gap beside a large number
        counted = TICK if passed > STALL else passed
        assert clock().monotonic - before == pytest.approx(counted, abs=1e-5)


@given(st.lists(st.floats(0, STALL - 1e-6), max_size=200))
def test_a_server_that_is_only_slow_counts_every_second(gaps: list[float]) -> None:
    fake = FakeTime()
    clock = fake.clock()
    for gap in gaps:
        fake.monotonic += gap
        clock()
    assert clock().monotonic == pytest.approx(sum(gaps), abs=1e-6)


@given(st.lists(st.floats(-1e9, 1e9), max_size=20))
def test_a_jump_of_the_wall_clock_changes_no_lease(jumps: list[float]) -> None:
    fake = FakeTime()
    clock = fake.clock()
    for jump in jumps:
        fake.wall += jump
        fake.monotonic += TICK
        assert clock().wall == fake.wall
    assert clock().monotonic == pytest.approx(len(jumps) * TICK)


# --- a real server, stopped


def test_a_server_that_was_stopped_for_three_leases_loses_nobody(tmp_path: Path) -> None:
    with (
        running_server(tmp_path) as server,
        SyncClient(server.address, run="job", retry_for=20.0) as client,
    ):
        client.register("trainer", lease=1.0)
        for index in range(8):
            client.register("explorer", f"e{index}", lease=1.0)
        before = client.status()
        server.pause()
        threading.Event().wait(3.0)  # the time that passes is what is tested
        server.resume()
        answered = time.monotonic()
        # For longer than a lease: by then who is silent would have been lost.
        until(lambda: time.monotonic() > answered + 1.5, timeout=5)
        after = client.status()
        assert after.revision == before.revision  # not a single change
        assert {worker.state for worker in after.workers} == {WorkerState.RUNNING}
        assert "did not run for a while" in server.log


# --- a real explorer, stopped

EXPLORER = """
import sys
from sync_client import SyncClient

with SyncClient(sys.argv[1], run=sys.argv[2], retry_for=20.0) as client:
    explorer = client.register("explorer", "e", lease=float(sys.argv[3]))
    print("registered", flush=True)
    sys.stdin.readline()
    print(explorer.set_state("REQUIRE_SYNC").state, explorer.generation, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def explorer(
    server: ServerProcess, run_id: str, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[str]]:
    """An explorer with a lease of a second (or the parameter), in a process of its own."""
    lease = str(getattr(request, "param", 1.0))
    with subprocess.Popen(
        [sys.executable, "-c", EXPLORER, server.address, run_id, lease],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "registered\n"
            yield process
        finally:
            process.kill()


def state(client: SyncClient) -> WorkerState:
    """The explorer's."""
    (worker,) = client.status().workers
    return worker.state


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["SIGSTOP", "SIGKILL"])
def test_a_silent_explorer_is_lost_within_its_lease_and_a_second(
    client: SyncClient, explorer: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert state(client) is WorkerState.RUNNING
    begin = time.monotonic()
    os.kill(explorer.pid, number)
    until(lambda: state(client) is WorkerState.LOST, timeout=5)
    assert time.monotonic() - begin < 1.0 + 1.0
    assert client.status().explorer_state_counts == {WorkerState.LOST: 1}
    if number == signal.SIGKILL:
        return
    # It wakes, and goes on under its generation: nobody took its name.
    os.kill(explorer.pid, signal.SIGCONT)
    until(lambda: state(client) is WorkerState.RUNNING, timeout=5)
    assert explorer.stdin is not None
    assert explorer.stdout is not None
    explorer.stdin.write("go on\n")
    explorer.stdin.flush()
    assert explorer.stdout.readline() == "REQUIRE_SYNC 1\n"


@pytest.mark.parametrize("explorer", [2.0], indirect=True)
def test_an_explorer_that_pauses_for_a_third_of_its_lease_is_not_lost(
    client: SyncClient, explorer: subprocess.Popen[str]
) -> None:
    revision = client.status().revision
    for _ in range(2):
        for number, seconds in ((signal.SIGSTOP, 0.6), (signal.SIGCONT, 0.7)):
            os.kill(explorer.pid, number)
            with pytest.raises(AssertionError):  # nothing changes as long as we look
                until(lambda: client.status().revision != revision, timeout=seconds)
    assert state(client) is WorkerState.RUNNING


def test_a_paused_explorer_that_was_replaced_is_refused_when_it_wakes(
    client: SyncClient, explorer: subprocess.Popen[str]
) -> None:
    os.kill(explorer.pid, signal.SIGSTOP)
    until(lambda: state(client) is WorkerState.LOST, timeout=5)
    successor = client.register("explorer", "e")
    assert successor.generation == 2
    os.kill(explorer.pid, signal.SIGCONT)
    assert explorer.stdin is not None
    explorer.stdin.write("go on\n")
    explorer.stdin.flush()
    assert explorer.wait(10) != 0  # StaleGeneration, unhandled
    (worker,) = client.status().workers
    assert (worker.state, worker.generation) == (WorkerState.RUNNING, 2)
