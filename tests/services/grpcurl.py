"""What the tests of grpcurl call: the program, and a request for every unary RPC."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from sync_client.tensors import StateDictSource
from weightsync.v1 import progress_pb2, rendezvous_pb2, runs_pb2, weights_pb2, workers_pb2

GRPCURL = Path(sys.executable).with_name("grpcurl")
SERVICES = [
    *(runs_pb2.DESCRIPTOR.services_by_name.values()),
    *(workers_pb2.DESCRIPTOR.services_by_name.values()),
    *(weights_pb2.DESCRIPTOR.services_by_name.values()),
    *(rendezvous_pb2.DESCRIPTOR.services_by_name.values()),
    *(progress_pb2.DESCRIPTOR.services_by_name.values()),
]
UNARY = [
    f"{service.name}/{method.name}"
    for service in SERVICES
    for method in service.methods
    if not (method.client_streaming or method.server_streaming)
]


def grpcurl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it; a server without TLS."""
    return subprocess.run(
        [GRPCURL, "-plaintext", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def upload_messages(run: str, number: int, **header: Any) -> str:
    """A small version as JSON messages; the bytes in base64."""
    source = StateDictSource({"a": torch.full((8,), float(number))})
    data = b"".join(source.chunks())
    first = {
        "name": f"{run}/weightVersions/{number}",
        "sizeBytes": str(source.layout.total_bytes),
        "digest": source.digest(),
        **header,
    }
    chunk = base64.b64encode(data).decode()
    return json.dumps({"header": first}) + json.dumps({"chunk": chunk})


def requests(run: str, digest: str) -> list[tuple[str, Any, Any]]:
    """Every unary call in an order that works, and a part of what it answers.

    Before them versions 1 and 2 were uploaded by the trainer.
    """
    trainer, explorer = f"{run}/workers/trainer", f"{run}/workers/explorer-0"
    newest, older = f"{run}/weightVersions/2", f"{run}/weightVersions/1"
    group, record = f"{run}/rendezvous/weights", f"{run}/progress/trainer"
    as_trainer = {"worker": trainer, "generation": "1"}
    return [
        (
            "WorkerService/RegisterWorker",
            {"parent": run, "workerId": "explorer-0", "role": "WORKER_ROLE_EXPLORER"},
            {"worker": {"name": explorer, "state": "WORKER_STATE_RUNNING", "generation": "1"}},
        ),
        (
            "WorkerService/RenewLease",
            {"name": trainer, "generation": "1"},
            {"worker": {"name": trainer, "leaseDuration": "600s"}},
        ),
        (
            "WorkerService/SetWorkerState",
            {
                "name": explorer,
                "generation": "1",
                "state": "WORKER_STATE_WAITING_SYNC",
                "expectedState": "WORKER_STATE_RUNNING",
            },
            {"worker": {"state": "WORKER_STATE_WAITING_SYNC"}},
        ),
        (
            "WorkerService/ReportAppliedVersion",
            {"name": explorer, "generation": "1", "version": "2", "digest": digest},
            {"worker": {"appliedVersion": {"version": "2", "verified": True}}},
        ),
        (
            "WorkerService/ListWorkers",
            {"parent": run},
            {"workers": [{"name": explorer}, {"name": trainer}]},
        ),
        (
            "RunService/GetRun",
            {"name": run},
            {"run": {"trainerState": "WORKER_STATE_RUNNING", "latestWeightVersion": {}}},
        ),
        ("RunService/ListRuns", {}, {"runs": [{"name": "runs/curl"}, {"name": "runs/default"}]}),
        ("RunService/CheckRunConfig", {"name": run, "config": {"lr": 1e-6}}, {"stored": True}),
        (
            "WeightService/WaitWeightVersion",
            {"parent": run, "afterVersion": "1", "maxWait": "1s"},
            {"reached": True, "outcome": "WAIT_OUTCOME_REACHED", "weightVersion": {"version": "2"}},
        ),
        (
            "WeightService/GetWeightVersion",
            {"name": newest},
            {"weightVersion": {"digest": digest, "state": "WEIGHT_VERSION_STATE_ACTIVE"}},
        ),
        (
            "WeightService/ListWeightVersions",
            {"parent": run},
            {"weightVersions": [{"name": newest}, {"name": older}]},
        ),
        (
            "WeightService/ListTensors",
            {"name": newest},
            {"tensors": [{"name": "a", "dtype": "F32", "shape": ["8"], "sizeBytes": "32"}]},
        ),
        ("WeightService/PlanUpload", {"header": {"name": newest, **as_trainer}}, {}),
        ("WeightService/PlanDownload", {"name": newest}, {}),
        (
            "WeightService/PinWeightVersion",
            {"name": older, "owner": "me", "ttl": "60s"},
            {"weightVersion": {"pins": [{"owner": "me"}]}},
        ),
        (
            "WeightService/UnpinWeightVersion",
            {"name": older, "owner": "me"},
            {"weightVersion": {"version": "1"}},
        ),
        ("WeightService/DeleteWeightVersion", {"name": older}, {}),
        ("WeightService/RollbackRun", {"name": run, "version": "2"}, {}),
        (
            "WeightService/PublishWeightVersion",
            {"name": newest, "nothingNew": True, **as_trainer},
            {},
        ),
        (
            "RendezvousService/JoinRendezvous",
            {"name": group, "leaderAddress": "127.0.0.1", "leaderPort": 29500, "workerCount": 1}
            | {"maxWait": "5s", **as_trainer},
            {"worldSize": 1, "leaderAddress": "127.0.0.1", "leaderPort": 29500},
        ),
        (
            "RendezvousService/GetRendezvous",
            {"name": group},
            {"rendezvous": {"complete": True, "members": [{"worker": trainer}]}},
        ),
        ("RendezvousService/LeaveRendezvous", {"name": group, **as_trainer}, {}),
        (
            "ProgressService/SaveProgress",
            {"progress": {"name": record, "trainer": {"currentStep": "7"}}, **as_trainer},
            {"progress": {"trainer": {"currentStep": "7"}}},
        ),
        (
            "ProgressService/GetProgress",
            {"name": record},
            {"progress": {"name": record, "trainer": {"currentStep": "7"}}},
        ),
        ("WorkerService/DeregisterWorker", {"name": explorer, "generation": "1"}, {}),
    ]
