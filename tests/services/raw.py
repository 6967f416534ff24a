"""The server as a stranger sees it: plain gRPC, safetensors bytes made by hand, none of our SDK."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2

from tests.servers import ServerProcess
from weightsync.v1 import runs_pb2, runs_pb2_grpc, weights_pb2, weights_pb2_grpc

UPLOAD = "/weightsync.v1.WeightService/UploadWeights"
DOWNLOAD = "/weightsync.v1.WeightService/DownloadWeights"
ZERO_DIGEST = "xxh3-128:" + "0" * 32
TIMEOUT = 30.0


@dataclass(frozen=True)
class Refusal:
    """An error as it came over the wire. `retry_delay` in seconds, None where there is none."""

    code: grpc.StatusCode
    reason: str
    text: str
    metadata: dict[str, str]
    retry_delay: float | None = None


def refusal(error: grpc.RpcError) -> Refusal:
    """What an error of the blocking stubs says."""
    assert isinstance(error, grpc.Call)
    return _read(error.code(), error.details() or "", error.trailing_metadata() or ())


def aio_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """What an error of the asynchronous stubs says."""
    return _read(error.code(), error.details() or "", error.trailing_metadata() or ())


def _read(code: grpc.StatusCode, text: str, trailers: Iterable[tuple[str, Any]]) -> Refusal:
    """Read with googleapis' own messages. Reason "" where there is none."""
    for key, value in trailers:
        if key != "grpc-status-details-bin":
            continue
        assert isinstance(value, bytes)
        status = status_pb2.Status.FromString(value)
        assert status.code == code.value[0]
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        delay = None
        for detail in status.details:
            detail.Unpack(info)
            if detail.Unpack(retry):
                delay = retry.retry_delay.ToTimedelta().total_seconds()
        assert info.domain == "weightsync"
        return Refusal(code, info.reason, status.message, dict(info.metadata), delay)
    return Refusal(code, "", text, {})


def refused(call: Any, *arguments: Any, **options: Any) -> Refusal:
    """Makes a call that must fail, and gives how."""
    try:
        answer = call(*arguments, timeout=TIMEOUT, **options)
        if isinstance(answer, grpc.Call) and hasattr(answer, "__iter__"):
            for _ in answer:  # a stream fails while it is read
                pass
    except grpc.RpcError as error:
        return refusal(error)
    raise AssertionError(f"was not refused: {answer}")


@contextlib.contextmanager
def open_channel(address: str) -> Iterator[grpc.Channel]:
    """A channel of its own, closed at the end."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


# --- safetensors by hand


def stream(header: object, data: bytes = b"") -> bytes:
    """A safetensors stream; `header` is JSON text as bytes, or what becomes it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, dtype: str = "U8", shape: list[Any] | None = None) -> Any:
    """One tensor of a header; the shape is that of bytes unless it is given."""
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# --- uploads, frame by frame


def header_frame(
    name: str, size: int, digest: str = ZERO_DIGEST, **fields: Any
) -> weights_pb2.UploadWeightsRequest:
    """The first message of an upload."""
    header = weights_pb2.UploadWeightsHeader(name=name, size_bytes=size, digest=digest, **fields)
    return weights_pb2.UploadWeightsRequest(header=header)


def chunk_frames(data: bytes, size: int = 1 << 20) -> list[weights_pb2.UploadWeightsRequest]:
    """The bytes as chunks."""
    return [
        weights_pb2.UploadWeightsRequest(chunk=data[start : start + size])
        for start in range(0, len(data), size)
    ]


def upload(
    channel: grpc.Channel, frames: Iterable[weights_pb2.UploadWeightsRequest], **options: Any
) -> weights_pb2.UploadWeightsResponse:
    """A client stream with the generated stub."""
    stub = weights_pb2_grpc.WeightServiceStub(channel)
    response = stub.UploadWeights(iter(frames), **options)
    assert isinstance(response, weights_pb2.UploadWeightsResponse)
    return response


def upload_refused(
    channel: grpc.Channel, name: str, data: bytes, *, size: int | None = None, **fields: Any
) -> Refusal:
    """Uploads `data` as `name`, announced as `size` (default: as it is); it must be refused."""
    frames = [header_frame(name, len(data) if size is None else size, **fields)]
    return refused(upload, channel, frames + chunk_frames(data))


# --- what there is


@dataclass(frozen=True)
class State:
    """Everything about a run that a client or a look into the directory can tell."""

    run: dict[str, Any] | None
    versions: list[dict[str, Any]]
    blobs: dict[str, tuple[int, int]]


def look(server: ServerProcess, channel: grpc.Channel, run_id: str) -> State:
    """The run as it is now; None and nothing where there is none."""
    name = f"runs/{run_id}"
    try:
        run = runs_pb2_grpc.RunServiceStub(channel).GetRun(runs_pb2.GetRunRequest(name=name)).run
    except grpc.RpcError as error:
        if refusal(error).reason != "RUN_NOT_FOUND":
            raise
        return State(None, [], _blobs(server, run_id))
    listed = weights_pb2_grpc.WeightServiceStub(channel).ListWeightVersions(
        weights_pb2.ListWeightVersionsRequest(parent=name)
    )
    versions = [json_format.MessageToDict(version) for version in listed.weight_versions]
    return State(json_format.MessageToDict(run), versions, _blobs(server, run_id))


@contextlib.contextmanager
def unchanged(server: ServerProcess, channel: grpc.Channel, run_id: str) -> Iterator[None]:
    """The block changes nothing: no revision, no version, no worker, no file."""
    before = look(server, channel, run_id)
    yield
    assert look(server, channel, run_id) == before


def _blobs(server: ServerProcess, run_id: str) -> dict[str, tuple[int, int]]:
    return {k: v for k, v in server.blobs().items() if k.startswith(f"{run_id}/")}
