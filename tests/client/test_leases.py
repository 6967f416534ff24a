"""Leases of real workers: kept by heartbeats, lost by silence, taken over, got back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from sync_client import SyncClient, WaitOutcome, WorkerState, errors
from sync_client.types import WorkerStatus
from tests.servers import ServerProcess, running_server
from tests.services.raw import open_channel
from tests.until import until
from weightsync.v1 import workers_pb2, workers_pb2_grpc

WEIGHTS = {"a": torch.ones(3)}

# An explorer with a lease of a second; tells its generation and state when it is asked.
EXPLORER = """
import sys
from sync_client import SyncClient

client = SyncClient(sys.argv[1], run=sys.argv[2])
explorer = client.register("explorer", name="explorer-0", lease=1.0)
explorer.set_state("WAITING_SYNC")
print("ready", flush=True)
for line in sys.stdin:
    print(explorer.generation, explorer.set_state(explorer.state).state, flush=True)
"""


def worker(client: SyncClient, name: str) -> WorkerStatus:
    """One worker as the server sees it."""
    return next(w for w in client.status().workers if w.name == name)


def pass_time(client: SyncClient, seconds: float) -> None:
    """Lets the server's clock go on, by a wait that nothing ends."""
    assert client.wait_version(after=10**9, timeout=seconds) is None


def test_heartbeats_keep_a_lease_of_a_second_alive(client: SyncClient) -> None:
    client.push(WEIGHTS, version=1)
    explorer = client.register("explorer", name="explorer-0", lease=1.0)
    explorer.set_state(WorkerState.REQUIRE_SYNC)
    revision = client.status().revision
    pass_time(client, 2.5)
    found = worker(client, "explorer-0")
    assert (found.state, found.generation) == (WorkerState.REQUIRE_SYNC, 1)
    assert client.status().revision == revision  # heartbeats are no changes
    explorer.set_state(WorkerState.RUNNING)


@pytest.fixture
def explorer(server: ServerProcess, run_id: str) -> Iterator[subprocess.Popen[str]]:
    """An explorer in a process of its own, in state WAITING_SYNC."""
    with subprocess.Popen(
        [sys.executable, "-c", EXPLORER, server.address, run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_process_that_dies_is_lost_after_its_lease(
    client: SyncClient, explorer: subprocess.Popen[str]
) -> None:
    assert worker(client, "explorer-0").state is WorkerState.WAITING_SYNC
    explorer.kill()
    until(lambda: worker(client, "explorer-0").state is WorkerState.LOST, timeout=5)
    assert client.status().explorer_state_counts == {WorkerState.LOST: 1}


def test_a_process_that_was_paused_gets_its_lease_and_state_back(
    client: SyncClient, explorer: subprocess.Popen[str]
) -> None:
    explorer.send_signal(signal.SIGSTOP)
    until(lambda: worker(client, "explorer-0").state is WorkerState.LOST, timeout=5)
    explorer.send_signal(signal.SIGCONT)
    found = until(lambda: _if_alive(worker(client, "explorer-0")), timeout=5)
    assert found.generation == 1
    until(lambda: worker(client, "explorer-0").state is WorkerState.WAITING_SYNC, timeout=5)
    assert explorer.stdin is not None
    assert explorer.stdout is not None
    print("?", file=explorer.stdin, flush=True)
    assert explorer.stdout.readline() == "1 WAITING_SYNC\n"


def _if_alive(found: WorkerStatus) -> WorkerStatus | None:
    return None if found.state is WorkerState.LOST else found


def test_who_was_taken_over_may_change_nothing(server: ServerProcess, run_id: str) -> None:
    with (
        SyncClient(server.address, run=run_id) as first,
        SyncClient(server.address, run=run_id) as second,
    ):
        old = first.register("trainer", lease=1.0)
        old.push(WEIGHTS, version=1)
        new = second.register("trainer", lease=1.0)
        assert (old.generation, new.generation) == (1, 2)
        for change in (
            lambda: old.push(WEIGHTS, version=2),
            lambda: old.set_state(WorkerState.STOPPED),
            lambda: old.report_applied(1, WEIGHTS),
            old.notify_nothing_new,
        ):
            with pytest.raises(errors.StaleGeneration):
                change()
        pass_time(second, 1.5)  # the old one's heartbeats find out, too, and mend nothing
        with pytest.raises(errors.StaleGeneration):
            old.set_state(WorkerState.RUNNING)
        assert worker(second, "trainer").generation == 2
        assert [version.version for version in second.versions()] == [1]
        new.push({"a": torch.zeros(3)}, version=2)
        old.close()  # leaves without touching what is the other one's
        assert worker(second, "trainer").state is WorkerState.RUNNING


def test_a_second_trainer_is_refused_while_the_first_lives(client: SyncClient) -> None:
    with client.register("trainer", name="first"):
        with pytest.raises(errors.TrainerActive, match="first"):
            client.register("trainer", name="second")
        assert [w.name for w in client.status().workers] == ["first"]
    with client.register("trainer", name="second") as second:
        second.push(WEIGHTS, version=1)


def test_a_push_without_a_lease_is_refused_while_a_trainer_lives(client: SyncClient) -> None:
    trainer = client.register("trainer")
    trainer.push(WEIGHTS, version=1)
    with pytest.raises(errors.TrainerActive):
        client.push(WEIGHTS, version=2)
    explorer = client.register("explorer")
    with pytest.raises(errors.RoleMismatch):
        explorer.push(WEIGHTS, version=2)
    assert [version.version for version in client.versions()] == [1]
    trainer.close()
    assert client.push(WEIGHTS, version=2).pushed_by == ""


def test_leaving_releases_who_waits(client: SyncClient) -> None:
    explorer = client.register("explorer", name="explorer-0")
    trainer = client.register("trainer")
    trainer.push(WEIGHTS, version=1)
    trainer.close()
    result = explorer.wait(after=1, timeout=30)
    assert (result.reached, result.outcome) == (False, WaitOutcome.TRAINER_STOPPED)
    explorer.close()
    assert [w.name for w in client.status().workers] == ["trainer"]
    assert client.status().trainer_state is WorkerState.STOPPED


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_server_that_comes_back_finds_its_workers_again(kind: str) -> None:
    with (
        running_server(options=["--state-store", kind]) as server,
        SyncClient(server.address, run="again", retry_for=30) as client,
    ):
        client.register("trainer", lease=1.0).close()
        trainer = client.register("trainer", lease=1.0)  # generation 2
        explorer = client.register("explorer", name="explorer-0", lease=1.0)
        trainer.set_state(WorkerState.WAITING_SYNC)
        explorer.set_state(WorkerState.REQUIRE_SYNC)
        server.restart()
        until(lambda: _back(client))
        assert worker(client, "trainer").generation == trainer.generation == 2
        # Nobody had to be told: the next writes go through.
        trainer.push(WEIGHTS, version=7)
        assert explorer.wait_version(after=0, timeout=10) == 7
        assert explorer.report_applied(7, WEIGHTS)


def _back(client: SyncClient) -> bool:
    try:
        states = {w.name: w.state for w in client.status().workers}
    except errors.RunNotFound:  # the memory is empty until the first heartbeat
        return False
    wanted = {"trainer": WorkerState.WAITING_SYNC, "explorer-0": WorkerState.REQUIRE_SYNC}
    return states == wanted


def test_a_compare_and_set_whose_answer_was_lost_is_done(
    client: SyncClient, server: ServerProcess
) -> None:
    """The server changed the state, died before it said so, and forgot the request."""
    explorer = client.register("explorer", name="e")
    with open_channel(server.address) as channel:
        stub = workers_pb2_grpc.WorkerServiceStub(channel)

        def earlier_attempt(state: workers_pb2.WorkerState) -> None:
            name = f"runs/{client.run}/workers/e"
            stub.SetWorkerState(
                workers_pb2.SetWorkerStateRequest(
                    name=name, generation=explorer.generation, state=state
                )
            )

        earlier_attempt(workers_pb2.WORKER_STATE_REQUIRE_SYNC)
        found = explorer.set_state("REQUIRE_SYNC", expected="RUNNING")
        assert found.state is explorer.state is WorkerState.REQUIRE_SYNC
        # What this worker never was, or what nobody asked for, is still a mismatch.
        with pytest.raises(errors.StateMismatch):
            explorer.set_state("REQUIRE_SYNC", expected="WAITING_SYNC")
        earlier_attempt(workers_pb2.WORKER_STATE_WAITING_SYNC)
        with pytest.raises(errors.StateMismatch):
            explorer.set_state("RUNNING", expected="REQUIRE_SYNC")
