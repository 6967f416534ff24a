"""Clients that go away in the middle, versions that go away in the middle, `into` that is wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest, tensors_from_buffer
from tests.servers import ServerProcess
from tests.services.raw import entry, header_frame, look, open_channel, refused, stream, unchanged
from tests.until import until
from weightsync.frames import read_download_frame
from weightsync.layout import parse
from weightsync.v1 import weights_pb2, weights_pb2_grpc

# Pushes 64 MiB; stops in the middle and says so, until it is told to go on.
PUSHER = """
import sys, torch
from sync_client import SyncClient

def stop_in_the_middle(done, total):
    if not said and done > total // 2:
        said.append(done)
        print("half", flush=True)
        sys.stdin.readline()

said = []
with SyncClient(sys.argv[1], run=sys.argv[2]) as client:
    client.push({"a": torch.arange(8 << 20)}, version=6, progress=stop_in_the_middle)
print("done", flush=True)
"""


@pytest.fixture
def pusher(server: ServerProcess, run_id: str, pushed: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of pushing version 6."""
    process = subprocess.Popen(
        [sys.executable, "-c", PUSHER, server.address, run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            yield process
        finally:
            process.kill()


def partials(server: ServerProcess, run_id: str) -> list[str]:
    """Uploads that lie in the blob directory."""
    return [name for name in server.blobs() if name.startswith(f"{run_id}/") and "partial" in name]


def test_a_client_that_dies_in_mid_upload_leaves_nothing_behind(
    server: ServerProcess,
    channel: grpc.Channel,
    client: SyncClient,
    run_id: str,
    pusher: subprocess.Popen[str],
) -> None:
    half = look(server, channel, run_id)
    assert len(partials(server, run_id)) == 1
    assert [version.version for version in client.versions()] == [5]
    # Nobody sees it, and nobody else can take the number while it lasts.
    with pytest.raises(errors.VersionNotFound):
        client.pull(6)
    with pytest.raises(errors.UploadInProgress):
        client.push({"b": torch.ones(3)}, version=6)
    assert client.wait_version(after=5, timeout=0) is None
    pusher.kill()
    until(lambda: not partials(server, run_id))
    left = look(server, channel, run_id)
    assert (left.run, left.versions) == (half.run, half.versions)
    assert len(left.blobs) == 1
    # The number is free for other bytes.
    info = client.push({"b": torch.ones(3)}, version=6)
    assert torch.equal(client.pull(6).state_dict["b"], torch.ones(3))
    assert info.version == 6


def test_a_client_that_only_pauses_goes_on(
    client: SyncClient, run_id: str, server: ServerProcess, pusher: subprocess.Popen[str]
) -> None:
    assert pusher.stdin is not None
    assert pusher.stdout is not None
    pusher.stdin.write("on\n")
    pusher.stdin.flush()
    assert pusher.stdout.readline() == "done\n"
    assert torch.equal(client.pull(6).state_dict["a"], torch.arange(8 << 20))
    assert not partials(server, run_id)


def test_a_cancelled_upload_leaves_nothing_behind(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    data = stream({"a": entry(0, 8 << 20)})
    cancelled = threading.Event()  # until then the stream stays open

    def frames() -> Iterator[weights_pb2.UploadWeightsRequest]:
        yield header_frame(f"{pushed}/weightVersions/6", len(data) + (8 << 20))
        yield weights_pb2.UploadWeightsRequest(chunk=data + bytes(1000))
        cancelled.wait(30)

    with unchanged(server, channel, run_id):
        call = weights_pb2_grpc.WeightServiceStub(channel).UploadWeights.future(frames())
        try:
            until(lambda: partials(server, run_id))
        finally:
            call.cancel()
            cancelled.set()
        until(lambda: not partials(server, run_id))


# --- versions that go away


BIG = {f"layer.{index}": torch.full((1 << 20,), float(index)) for index in range(16)}


@pytest.mark.parametrize("how", ["retired", "deleted"])
def test_a_download_in_progress_goes_on_when_its_version_goes(
    how: str, server: ServerProcess, client: SyncClient, run_id: str
) -> None:
    info = client.push(BIG, version=1)
    request = weights_pb2.DownloadWeightsRequest(name=f"runs/{run_id}/weightVersions/1")
    with open_channel(server.address) as own:
        method: Any = own.unary_stream(
            "/weightsync.v1.WeightService/DownloadWeights",
            request_serializer=weights_pb2.DownloadWeightsRequest.SerializeToString,
        )
        frames = method(request)
        header = read_download_frame(next(frames))
        assert isinstance(header, weights_pb2.DownloadWeightsHeader)
        received = bytearray(read_download_frame(next(frames)))  # type: ignore[arg-type]  # a chunk
        # The client has read 1 of 64 MiB: the rest waits in the server, behind flow control.
        client.push({"a": torch.ones(1)}, version=2)
        if how == "deleted":
            client.delete(1)
        else:
            client.push({"a": torch.ones(2)}, version=3)
        with pytest.raises(errors.VersionRetired):
            client.pull(1)
        until(lambda: not any(f"{run_id}/1-" in name for name in server.blobs()))
        for frame in frames:
            received += read_download_frame(frame)  # type: ignore[arg-type]  # a chunk
    layout = parse(received, header.size_bytes)
    assert state_dict_digest(tensors_from_buffer(received, layout)) == info.digest


def test_a_pull_of_a_version_that_was_just_retired(
    server: ServerProcess, channel: grpc.Channel, client: SyncClient, run_id: str
) -> None:
    for number in (1, 2, 3):
        client.push({"a": torch.full((4,), number)}, version=number)
    assert [version.version for version in client.versions()] == [3, 2]
    with unchanged(server, channel, run_id):
        with pytest.raises(errors.VersionRetired) as caught:
            client.pull(1)
        assert caught.value.metadata["cause"] == "retention"
        with pytest.raises(errors.VersionRetired):
            list(client.iter_tensors(1))
        request = weights_pb2.DownloadWeightsRequest(
            name=f"runs/{run_id}/weightVersions/1", read_offset=10
        )
        found = refused(weights_pb2_grpc.WeightServiceStub(channel).DownloadWeights, request)
        assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_RETIRED")
        assert client.pull().version == 3


# --- into=


def wrong(case: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that the version does not fit, all of them filled with ones."""
    into = {name: torch.ones_like(tensor) for name, tensor in weights.items()}
    if case == "shape":
        into["layer.weight"] = torch.ones(16, 8, dtype=torch.bfloat16)
    elif case == "a scalar of one dimension":
        into["scalar"] = torch.ones(1)
    elif case == "dtype":
        into["layer.weight"] = torch.ones(8, 16, dtype=torch.float16)
    elif case == "missing":
        del into["layer.bias"]
    elif case == "surplus":
        into["layer.extra"] = torch.ones(2)
    elif case == "expanded":
        into["layer.weight"] = torch.ones(1, 16, dtype=torch.bfloat16).expand(8, 16)
    return into


CASES = ["shape", "a scalar of one dimension", "dtype", "missing", "surplus", "expanded"]


@pytest.mark.parametrize("case", CASES)
def test_into_that_does_not_fit(
    case: str,
    server: ServerProcess,
    channel: grpc.Channel,
    client: SyncClient,
    pushed: str,
    run_id: str,
    weights: dict[str, torch.Tensor],
) -> None:
    into = wrong(case, weights)
    names = {"missing": "layer.bias", "surplus": "layer.extra"}
    name = names.get(case, "scalar" if "scalar" in case else "layer.weight")
    with unchanged(server, channel, run_id), pytest.raises(errors.IntoRefused, match=name):
        client.pull(5, into=into)
    for tensor in into.values():
        assert torch.equal(tensor, torch.ones_like(tensor))  # not a byte was written


def test_names_that_the_version_does_not_have(
    server: ServerProcess, channel: grpc.Channel, client: SyncClient, pushed: str, run_id: str
) -> None:
    into = {"layer.gone": torch.ones(3)}
    with unchanged(server, channel, run_id):
        with pytest.raises(errors.TensorNotFound, match=r"layer\.gone"):
            client.pull(5, into=into, names=["layer.gone"])
        with pytest.raises(errors.TensorNotFound):
            list(client.iter_tensors(5, names=["layer.gone"]))
    assert torch.equal(into["layer.gone"], torch.ones(3))
