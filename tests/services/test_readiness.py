"""Does worker X serve version N or a later one: the SDK's `ready`, and grpc.health.v1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sync_client import SyncClient, WorkerState, errors
from tests.servers import ServerProcess, running_server
from tests.services.grpcurl import GRPCURL, grpcurl
from tests.until import until


def weights(value: float) -> dict[str, torch.Tensor]:
    """Bytes that only this value has."""
    return {"w": torch.full((4,), value)}


def check(channel: grpc.Channel, service: str) -> str:
    """What a load balancer is told."""
    request = health_pb2.HealthCheckRequest(service=service)
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its types know no methods
    answer = stub.Check(request, timeout=10)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def test_a_worker_is_ready_for_what_it_has_applied_and_before(client: SyncClient) -> None:
    trainer, explorer = client.register("trainer"), client.register("explorer", "e")
    assert client.ready("e")
    assert not client.ready("e", 0)
    infos = {number: trainer.push(weights(number), number) for number in (3, 5)}
    assert not client.ready("e", 3)
    explorer.report_applied(3, infos[3].digest)
    assert [client.ready("e", number) for number in (0, 3, 4, 5)] == [True, True, False, False]
    explorer.report_applied(5, infos[5].digest)
    assert [client.ready("e", number) for number in (3, 5, 6)] == [True, True, False]
    explorer.report_applied(5, infos[3].digest)  # it says 5, and has other bytes
    assert not client.ready("e", 5)


def test_a_worker_that_stopped_or_left_is_not_ready(client: SyncClient) -> None:
    explorer = client.register("explorer", "e")
    info = client.push(weights(1), 1)
    explorer.report_applied(1, info.digest)
    explorer.set_state(WorkerState.STOPPED)
    assert not client.ready("e", 1)
    assert not client.ready("e")
    explorer.set_state(WorkerState.RUNNING)
    assert client.ready("e", 1)
    explorer.close()
    with pytest.raises(errors.WorkerNotFound):
        client.ready("e", 1)


def test_a_lost_worker_is_not_ready_and_is_again_when_it_is_back(
    client: SyncClient, server: ServerProcess
) -> None:
    info = client.push(weights(1), 1)
    explorer = client.register("explorer", "e", lease=1.0)
    explorer.report_applied(1, info.digest)
    assert client.ready("e", 1)
    aio = explorer._aio
    explorer._thread.call(aio._heartbeat.stop())  # as a process that hangs
    until(lambda: not client.ready("e", 1), timeout=3)
    assert not client.ready("e")
    explorer.report_applied(1, info.digest)  # the next write mends the lease
    assert client.ready("e", 1)


def test_what_a_rewind_superseded_is_not_ready(client: SyncClient) -> None:
    explorer = client.register("explorer", "e")
    trainer = client.register("trainer")
    info = trainer.push(weights(50), 50)
    explorer.report_applied(50, info.digest)
    assert client.ready("e", 41)
    again = client.register("trainer").push(weights(41), 41)
    assert not client.ready("e", 41)
    explorer.report_applied(41, again.digest)
    assert client.ready("e", 41)


@pytest.mark.parametrize("name", ["e@host", "e@7", "@", "e@", "a b@3@4", "é"])
def test_names_may_hold_an_at_sign(client: SyncClient, name: str) -> None:
    explorer = client.register("explorer", name)
    assert client.ready(name)
    assert not client.ready(name, 3)
    info = client.push(weights(3), 3)
    explorer.report_applied(3, info.digest)
    assert client.ready(name, 3)
    assert not client.ready(name, 4)


@pytest.mark.parametrize(("name", "version"), [("a/b", 1), ("", None), ("e", -1), ("e", 2**63)])
def test_what_can_be_no_worker_or_version_is_refused(
    client: SyncClient, name: str, version: int | None
) -> None:
    client.register("explorer", "e")
    with pytest.raises(errors.InvalidName):
        client.ready(name, version)


def test_what_is_not_there_is_unknown(client: SyncClient, channel: grpc.Channel) -> None:
    run = f"runs/{client.run}"
    with pytest.raises(errors.WorkerNotFound):
        client.ready("e")  # not even the run
    client.register("explorer", "e")
    assert check(channel, f"{run}/workers/e") == "SERVING"
    assert check(channel, f"{run}/workers/e@") == "SERVING"
    for service in (
        *(f"{run}/workers/who", f"{run}/workers/who@1", "runs/nowhere/workers/e"),
        *(run, f"{run}/workers", f"{run}/workers/", f"{run}/workers/e/x", f"{run}/workers/@1"),
        *(f"{run}/workers/e@x", f"{run}/workers/e@-1", f"{run}/workers/e@1_0"),
        *(f"{run}/workers/e@+1", f"{run}/workers/e@007", f"{run}/workers/e@{2**63}"),
        *(f"{run}/workers/e@٣", f"{run}/weightVersions/1"),
    ):
        assert check(channel, service) == "SERVICE_UNKNOWN", service


@pytest.mark.skipif(not GRPCURL.exists(), reason="grpcurl is not installed here")
def test_grpcurl_asks_as_a_load_balancer_does(client: SyncClient, server: ServerProcess) -> None:
    def ask(worker: str) -> Any:
        request = json.dumps({"service": f"runs/{client.run}/workers/{worker}"})
        done = grpcurl("-d", request, server.address, "grpc.health.v1.Health/Check")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["status"]

    explorer = client.register("explorer", "explorer-0")
    info = client.push(weights(41), 41)
    assert ask("explorer-0") == "SERVING"
    assert ask("explorer-0@41") == "NOT_SERVING"
    explorer.report_applied(41, info.digest)
    assert ask("explorer-0@41") == "SERVING"
    assert ask("explorer-0@42") == "NOT_SERVING"
    assert ask("explorer-9@41") == "SERVICE_UNKNOWN"


def test_readiness_survives_a_crash_of_the_server(tmp_path: Path) -> None:
    with (
        running_server(tmp_path) as server,
        SyncClient(server.address, retry_for=20.0) as client,
    ):
        info = client.push(weights(1), 1)
        client.register("explorer", "e", lease=30.0).report_applied(1, info.digest)
        server.restart()  # kill -9 first
        assert client.ready("e", 1)
        assert not client.ready("e", 2)
