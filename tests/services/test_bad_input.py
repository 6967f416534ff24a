"""Requests that are wrong: each is refused with its reason, and nothing is lost or changed.

What is wrong with the bytes of an upload is in test_bad_uploads.py.
"""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.servers import ServerProcess
from tests.services.raw import DOWNLOAD, refused, unchanged, upload_refused
from weightsync.v1 import (
    runs_pb2,
    runs_pb2_grpc,
    weights_pb2,
    weights_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
)

_INVALID = grpc.StatusCode.INVALID_ARGUMENT
Weights = weights_pb2_grpc.WeightServiceStub
Workers = workers_pb2_grpc.WorkerServiceStub
Runs = runs_pb2_grpc.RunServiceStub


def of_version(name: str) -> dict[str, tuple[Any, Any]]:
    """Every call that names a version: (stub, request)."""
    return {
        "GetWeightVersion": (Weights, weights_pb2.GetWeightVersionRequest(name=name)),
        "ListTensors": (Weights, weights_pb2.ListTensorsRequest(name=name)),
        "DownloadWeights": (Weights, weights_pb2.DownloadWeightsRequest(name=name)),
        "PinWeightVersion": (Weights, weights_pb2.PinWeightVersionRequest(name=name, owner="me")),
        "UnpinWeightVersion": (
            Weights,
            weights_pb2.UnpinWeightVersionRequest(name=name, owner="me"),
        ),
        "DeleteWeightVersion": (Weights, weights_pb2.DeleteWeightVersionRequest(name=name)),
    }


def of_run(name: str) -> dict[str, tuple[Any, Any]]:
    """Calls that name a run and do not make it."""
    return {
        "GetRun": (Runs, runs_pb2.GetRunRequest(name=name)),
        "WatchRun": (Runs, runs_pb2.WatchRunRequest(name=name)),
        "ListWorkers": (Workers, workers_pb2.ListWorkersRequest(parent=name)),
        "ListWeightVersions": (Weights, weights_pb2.ListWeightVersionsRequest(parent=name)),
        "WaitWeightVersion": (Weights, weights_pb2.WaitWeightVersionRequest(parent=name)),
    }


def of_worker(name: str) -> dict[str, tuple[Any, Any]]:
    """Calls that name a worker."""
    return {
        "RenewLease": (Workers, workers_pb2.RenewLeaseRequest(name=name, generation=1)),
        "SetWorkerState": (
            Workers,
            workers_pb2.SetWorkerStateRequest(
                name=name, generation=1, state=workers_pb2.WORKER_STATE_STOPPED
            ),
        ),
        "ReportAppliedVersion": (
            Workers,
            workers_pb2.ReportAppliedVersionRequest(
                name=name, generation=1, version=5, digest="xxh3-128:" + "0" * 32
            ),
        ),
    }


@pytest.mark.parametrize("call", of_version(""))
def test_an_unknown_version_or_run(
    call: str, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    with unchanged(server, channel, run_id):
        stub, request = of_version(f"{pushed}/weightVersions/77")[call]
        found = refused(getattr(stub(channel), call), request)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
        assert found.metadata["version"] == "77"
    with unchanged(server, channel, "nowhere"):
        stub, request = of_version("runs/nowhere/weightVersions/5")[call]
        found = refused(getattr(stub(channel), call), request)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
        assert found.metadata["run"] == "nowhere"


@pytest.mark.parametrize("call", of_run(""))
def test_an_unknown_run(call: str, server: ServerProcess, channel: grpc.Channel) -> None:
    with unchanged(server, channel, "nowhere"):
        stub, request = of_run("runs/nowhere")[call]
        found = refused(getattr(stub(channel), call), request)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")


@pytest.mark.parametrize("call", of_worker(""))
def test_an_unknown_worker(
    call: str, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    with unchanged(server, channel, run_id):
        stub, request = of_worker(f"{pushed}/workers/nobody")[call]
        found = refused(getattr(stub(channel), call), request)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "WORKER_NOT_FOUND")


def test_an_unknown_tensor(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    request = weights_pb2.DownloadWeightsRequest(
        name=f"{pushed}/weightVersions/5", tensor_names=["layer.bias", "layer.gone"]
    )
    with unchanged(server, channel, run_id):
        found = refused(Weights(channel).DownloadWeights, request)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "TENSOR_NOT_FOUND")
        assert "layer.gone" in found.text


NO_VERSION = ["", "runs/x", "runs/x/weightVersions/", "runs/x/weightVersions/five"]
NO_VERSION += [f"runs/x/weightVersions/{number}" for number in ("-1", "05", "5.0", "\u0665", 2**63)]
NO_VERSION += ["runs//weightVersions/5", "runs/../weightVersions/5", "weightVersions/5"]
NO_RUN = ["", "runs/", "runs", "x", "runs/a/b", "runs/..", "runs/.hidden", "runs/a b", "runs/ä"]
NO_RUN += ["runs/" + "x" * 129, "runs/a\x00b"]
NO_WORKER_ID = ["", "a/b", "/", "a\nb", "a\x00", "x" * 129, " a", "a ", "a\u202eb", "\ud7ff\ue000"]


@pytest.mark.parametrize("name", NO_VERSION)
def test_a_malformed_version_name(name: str, channel: grpc.Channel) -> None:
    for call, (stub, request) in of_version(name).items():
        found = refused(getattr(stub(channel), call), request)
        assert (found.code, found.reason) == (_INVALID, "INVALID_NAME"), call
    found = upload_refused(channel, name, b"12345678{}")
    assert (found.code, found.reason) == (_INVALID, "INVALID_NAME")


@pytest.mark.parametrize("name", NO_RUN)
def test_a_malformed_run_name(name: str, channel: grpc.Channel) -> None:
    for call, (stub, request) in of_run(name).items():
        found = refused(getattr(stub(channel), call), request)
        assert (found.code, found.reason) == (_INVALID, "INVALID_NAME"), call
    request = workers_pb2.RegisterWorkerRequest(
        parent=name, worker_id="w", role=workers_pb2.WORKER_ROLE_EXPLORER
    )
    found = refused(Workers(channel).RegisterWorker, request)
    assert (found.code, found.reason) == (_INVALID, "INVALID_NAME")


@pytest.mark.parametrize("worker_id", NO_WORKER_ID)
def test_a_worker_name_that_is_empty_or_has_a_slash(
    worker_id: str, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    with unchanged(server, channel, run_id):
        request = workers_pb2.RegisterWorkerRequest(
            parent=pushed, worker_id=worker_id, role=workers_pb2.WORKER_ROLE_TRAINER
        )
        found = refused(Workers(channel).RegisterWorker, request)
        assert (found.code, found.reason) == (_INVALID, "INVALID_NAME")
        assert found.metadata["field"] == "worker_id"
        for call, (stub, other) in of_worker(f"{pushed}/workers/{worker_id}").items():
            found = refused(getattr(stub(channel), call), other)
            assert (found.code, found.reason) == (_INVALID, "INVALID_NAME"), call


@pytest.mark.parametrize("role", [0, 3, -1])
def test_a_role_that_there_is_not(
    role: Any, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    request = workers_pb2.RegisterWorkerRequest(parent=pushed, worker_id="w", role=role)
    with unchanged(server, channel, run_id):
        found = refused(Workers(channel).RegisterWorker, request)
        assert (found.code, found.reason) == (_INVALID, "INVALID_ARGUMENT")


WRONG_DURATIONS = {
    "negative": Duration(seconds=-1),
    "negative nanos": Duration(seconds=1, nanos=-1),
    "only negative nanos": Duration(nanos=-1),
    "too many nanos": Duration(seconds=1, nanos=1_000_000_000),
    "all bits": Duration(seconds=-(2**63), nanos=-(2**31)),
    "ten thousand years": Duration(seconds=315_576_000_000),
    "beyond every calendar": Duration(seconds=2**63 - 1, nanos=2**31 - 1),
}


@pytest.mark.parametrize("case", WRONG_DURATIONS)
def test_a_negative_or_absurd_duration(
    case: str, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    duration = WRONG_DURATIONS[case]
    calls = [
        (
            Workers(channel).RegisterWorker,
            workers_pb2.RegisterWorkerRequest(
                parent=pushed,
                worker_id="w",
                role=workers_pb2.WORKER_ROLE_EXPLORER,
                lease_duration=duration,
            ),
        ),
        (
            Weights(channel).WaitWeightVersion,
            weights_pb2.WaitWeightVersionRequest(parent=pushed, after_version=5, max_wait=duration),
        ),
        (
            Weights(channel).PinWeightVersion,
            weights_pb2.PinWeightVersionRequest(
                name=f"{pushed}/weightVersions/5", owner="me", ttl=duration
            ),
        ),
    ]
    with unchanged(server, channel, run_id):
        for call, request in calls:
            found = refused(call, request)
            assert (found.code, found.reason) == (_INVALID, "INVALID_DURATION"), request


@pytest.mark.parametrize("lease", [Duration(), Duration(nanos=999_999_999), Duration(seconds=3601)])
def test_a_lease_that_is_too_short_or_too_long(
    lease: Duration, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    request = workers_pb2.RegisterWorkerRequest(
        parent=pushed,
        worker_id="w",
        role=workers_pb2.WORKER_ROLE_EXPLORER,
        lease_duration=lease,
    )
    with unchanged(server, channel, run_id):
        found = refused(Workers(channel).RegisterWorker, request)
        assert (found.reason, found.metadata["field"]) == ("INVALID_DURATION", "lease_duration")


def test_a_pin_that_ends_before_it_begins(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    request = weights_pb2.PinWeightVersionRequest(
        name=f"{pushed}/weightVersions/5", owner="me", ttl=Duration()
    )
    with unchanged(server, channel, run_id):
        assert refused(Weights(channel).PinWeightVersion, request).reason == "INVALID_DURATION"


@pytest.mark.parametrize("offset", [-1, 10**9, -(2**63), 2**63 - 1])
def test_an_offset_outside_of_the_stream(
    offset: int, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    request = weights_pb2.DownloadWeightsRequest(
        name=f"{pushed}/weightVersions/5", read_offset=offset
    )
    with unchanged(server, channel, run_id):
        found = refused(Weights(channel).DownloadWeights, request)
        assert found.code == grpc.StatusCode.OUT_OF_RANGE
        assert found.reason == "OFFSET_OUT_OF_RANGE"


def test_a_page_that_there_is_not(channel: grpc.Channel, pushed: str) -> None:
    for size, token, reason in (
        (-1, "", "INVALID_ARGUMENT"),
        (0, "x", "INVALID_PAGE_TOKEN"),
        (0, "-1", "INVALID_PAGE_TOKEN"),
        (0, "9" * 40, "INVALID_PAGE_TOKEN"),
    ):
        request = weights_pb2.ListWeightVersionsRequest(
            parent=pushed, page_size=size, page_token=token
        )
        found = refused(Weights(channel).ListWeightVersions, request)
        assert (found.code, found.reason) == (_INVALID, reason)


def test_a_request_that_is_no_message(channel: grpc.Channel, pushed: str) -> None:
    for method in (DOWNLOAD, "/weightsync.v1.WeightService/GetWeightVersion"):
        for garbage in (b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", bytes(range(256))):
            call: Any = channel.unary_stream(method)
            found = refused(call, garbage)
            assert (found.code, found.reason) == (_INVALID, "INVALID_ARGUMENT"), garbage
