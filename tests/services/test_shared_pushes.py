"""Pushes into the server's own segments: filled, verified, and what happens to those who die."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest
from tests.servers import ServerProcess
from tests.services.raw import ZERO_DIGEST, open_channel, refused
from tests.services.sharing import same
from tests.until import until
from weightsync.v1 import weights_pb2, weights_pb2_grpc


def big(seed: int) -> dict[str, torch.Tensor]:
    """Enough to be worth a segment: strided, tied, tiny and empty tensors among it."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(1100, 700, generator=generator)
    return {
        "a": matrix,
        "strided": matrix.t(),
        "tied": matrix,
        "half": torch.randn(3, 5, generator=generator).to(torch.bfloat16),
        "one": torch.tensor([seed % 256], dtype=torch.uint8),
        "empty": torch.empty(0, 3),
    }


def test_a_push_fills_the_servers_segment(local: SyncClient, sharing: ServerProcess) -> None:
    steps: list[int] = []
    for number in range(1, 8):
        sent = big(number)
        info = local.push(
            sent,
            version=number,
            transport="shared-memory",
            progress=lambda done, total: steps.append(done),
        )
        assert info.digest == state_dict_digest(sent)
        assert steps[-1] == info.size
        over_grpc = local.pull(number, transport="grpc")
        assert over_grpc.digest == info.digest
        assert same(dict(over_grpc.state_dict), sent)
    # The bytes are the same as those of a push over gRPC: one file for all ways.
    again = local.push(big(7), version=8, transport="grpc")
    assert (again.digest, again.size) == (info.digest, info.size)
    folder = sharing.blob_dir / local.run
    assert not list(folder.glob("*.partial"))


def test_tensors_that_change_while_they_are_copied_are_no_version(local: SyncClient) -> None:
    local.push(big(1), version=1, transport="shared-memory")
    sent = {"a": torch.ones(20_000_000)}  # many pieces, which are not all copied at once

    def change(done: int, total: int) -> None:
        if done < total:
            sent["a"].add_(1.0)

    with pytest.raises(errors.DigestMismatch):
        local.push(sent, version=2, transport="shared-memory", progress=change)
    assert [info.version for info in local.versions()] == [1]
    assert local.push(sent, version=2, transport="shared-memory").version == 2
    assert same(dict(local.pull(2).state_dict), sent)


def test_what_a_callback_raises_ends_the_push(local: SyncClient) -> None:
    def broken(done: int, total: int) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        local.push(big(1), version=1, transport="shared-memory", progress=broken)
    assert local.push(big(1), version=1, transport="shared-memory").version == 1


_DIE = """
import os, signal, sys, torch
from sync_client import SyncClient
client = SyncClient(sys.argv[1], sys.argv[2])
def die(done, total):
    os.kill(os.getpid(), signal.SIGKILL)
client.push({"a": torch.ones(3_000_000)}, 1, transport="shared-memory", progress=die)
"""


def test_a_trainer_that_dies_in_the_middle_leaves_nothing(
    sharing: ServerProcess, local: SyncClient
) -> None:
    local.push(big(1), version=0)
    done = subprocess.run([sys.executable, "-c", _DIE, sharing.address, local.run], check=False)
    assert done.returncode == -signal.SIGKILL
    folder = sharing.blob_dir / local.run
    until(lambda: not list(folder.glob("*.partial")))
    assert local.status().latest_version == 0
    assert local.push({"a": torch.ones(3_000_000)}, 1, transport="shared-memory").version == 1


def test_a_segment_that_nobody_fills_is_taken_back(sharing: ServerProcess, run_id: str) -> None:
    header = weights_pb2.UploadWeightsHeader(
        name=f"runs/{run_id}/weightVersions/1", size_bytes=2 << 20, digest=ZERO_DIGEST
    )
    with open_channel(sharing.address) as channel:
        stub = weights_pb2_grpc.WeightServiceStub(channel)
        plan = stub.PlanUpload(weights_pb2.PlanUploadRequest(header=header))
        path = Path(plan.locations[0].shared_memory.path)
        assert path.stat().st_size == 2 << 20
        other = weights_pb2.UploadWeightsHeader()
        other.CopyFrom(header)
        other.segment, other.size_bytes = str(path), 3 << 20
        assert refused(stub.UploadWeights, iter([_first(other)])).reason == "INVALID_ARGUMENT"
        other.CopyFrom(header)
        other.segment = "/etc/passwd"
        assert refused(stub.UploadWeights, iter([_first(other)])).reason == "INVALID_ARGUMENT"
        until(lambda: not path.exists(), timeout=20)
        other.segment = str(path)
        assert refused(stub.UploadWeights, iter([_first(other)])).reason == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "INVALID_HEADER"),
        (b"\xff" * 100, "INVALID_HEADER"),
        (b'\x50\0\0\0\0\0\0\0{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}', None),
    ],
    ids=["zeros", "nonsense", "too short"],
)
def test_nonsense_in_a_segment_is_refused(
    sharing: ServerProcess, run_id: str, content: bytes, reason: str | None
) -> None:
    header = weights_pb2.UploadWeightsHeader(
        name=f"runs/{run_id}/weightVersions/1", size_bytes=2 << 20, digest=ZERO_DIGEST
    )
    with open_channel(sharing.address) as channel:
        stub = weights_pb2_grpc.WeightServiceStub(channel)
        plan = stub.PlanUpload(weights_pb2.PlanUploadRequest(header=header))
        header.segment = plan.locations[0].shared_memory.path
        path = Path(header.segment)
        with path.open("r+b") as file:
            file.write(content)
        found = refused(stub.UploadWeights, iter([_first(header)]))
        assert found.reason == (reason or "INVALID_HEADER")
        assert not path.exists()


def _first(header: weights_pb2.UploadWeightsHeader) -> weights_pb2.UploadWeightsRequest:
    return weights_pb2.UploadWeightsRequest(header=header)
