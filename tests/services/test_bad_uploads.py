"""Uploads that are wrong or hostile: each is refused with its reason, and nothing changes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import grpc
import pytest
import torch

from sync_client import SyncClient
from sync_client.tensors import StateDictSource
from tests.servers import ServerProcess
from tests.services.raw import (
    ZERO_DIGEST,
    chunk_frames,
    entry,
    header_frame,
    refused,
    stream,
    unchanged,
    upload,
    upload_refused,
)
from weightsync.v1 import weights_pb2

_INVALID = grpc.StatusCode.INVALID_ARGUMENT

# Named by what is wrong: (the bytes, what the metadata `problem` says).
HOSTILE: dict[str, tuple[bytes, str]] = {
    "length beyond the stream": (struct.pack("<Q", 1000) + b"{}", "header_truncated"),
    "length of 2**63": (struct.pack("<Q", 2**63) + b"{}" * 50, "header_too_large"),
    "offsets beyond the data": (stream({"a": entry(0, 9)}, b"12345678"), "size_mismatch"),
    "offsets before the data": (stream({"a": entry(-4, 4, "U8", [8])}, b"12345678"), "bad_offsets"),
    "offsets that go down": (stream({"a": entry(8, 0, "U8", [8])}, b"12345678"), "bad_offsets"),
    "tensors that overlap": (
        stream({"a": entry(0, 6), "b": entry(4, 8)}, b"12345678"),
        "overlapping_offsets",
    ),
    "the same bytes twice": (
        stream({"a": entry(0, 8), "b": entry(0, 8)}, b"12345678"),
        "overlapping_offsets",
    ),
    "a gap": (stream({"a": entry(0, 4), "b": entry(5, 8)}, b"12345678"), "gap"),
    "bytes of no tensor": (stream({"a": entry(0, 4)}, b"12345678"), "size_mismatch"),
    "a shape of other size": (
        stream({"a": entry(0, 8, "F32", [3])}, b"12345678"),
        "size_mismatch",
    ),
    "a shape that overflows": (
        stream({"a": entry(0, 8, "F32", [2**62, 2**62, 4])}, b"12345678"),
        "bad_shape",
    ),
    "a negative dimension": (stream({"a": entry(0, 8, "U8", [-8])}, b"12345678"), "bad_shape"),
    "an unknown dtype": (stream({"a": entry(0, 8, "F31", [2])}, b"12345678"), "unknown_dtype"),
    "a name twice": (
        stream(
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
            b'"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
            b"12345678",
        ),
        "duplicate_name",
    ),
    "no JSON": (stream(b"certainly not JSON", b"12345678"), "header_not_json"),
    "a list": (stream(b"[1,2,3]"), "header_not_json"),
    "no UTF-8": (stream(b'{"\xff\xfe":1}'), "header_not_json"),
    "a missing field": (stream({"a": {"dtype": "U8", "shape": [8]}}, b"12345678"), "header"),
    "metadata of numbers": (stream({"__metadata__": {"step": 5}}), "bad_metadata"),
    "half a surrogate pair": (stream(b'{"\\ud800":%s}' % b"{}"), "bad_name"),
    "a tower of brackets": (stream(b'{"a":' + b"[" * 200_000), "header_not_json"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_with_its_problem(
    case: str, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    data, problem = HOSTILE[case]
    with unchanged(server, channel, run_id):
        found = upload_refused(channel, f"{pushed}/weightVersions/6", data)
        assert (found.code, found.reason) == (_INVALID, "INVALID_HEADER")
        assert found.metadata["problem"].startswith(problem)
    # The number stays free.
    good = stream({"a": entry(0, 4)}, b"1234")
    assert upload_refused(channel, f"{pushed}/weightVersions/6", good).reason == "DIGEST_MISMATCH"


def test_a_hundred_megabytes_of_header_are_refused_at_their_first_bytes(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    size = 8 + 100_000_000
    sent = 0

    def frames() -> Iterator[weights_pb2.UploadWeightsRequest]:
        nonlocal sent
        yield header_frame(f"{pushed}/weightVersions/6", size)
        for frame in chunk_frames(struct.pack("<Q", 100_000_000) + b" " * 1_000_000):
            sent += len(frame.chunk)
            yield frame
        for _ in range(99):
            sent += 1_000_000
            yield weights_pb2.UploadWeightsRequest(chunk=b" " * 1_000_000)

    with unchanged(server, channel, run_id):
        found = refused(upload, channel, frames())
    assert (found.reason, found.metadata["problem"]) == ("INVALID_HEADER", "header_too_large")
    assert sent < size // 2  # it did not have to hear all of it


@pytest.mark.parametrize("run", ["the run that is there", "a run that is not"])
def test_a_refused_upload_makes_no_run(
    run: str, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    target = run_id if run == "the run that is there" else f"{run_id}-new"
    with unchanged(server, channel, target):
        for data, _ in HOSTILE.values():
            upload_refused(channel, f"runs/{target}/weightVersions/6", data)
        good = stream({"a": entry(0, 4)}, b"1234")
        name = f"runs/{target}/weightVersions/6"
        assert upload_refused(channel, name, good).reason == "DIGEST_MISMATCH"
        assert upload_refused(channel, name, good[:-1], size=len(good)).reason == "SIZE_MISMATCH"


def content(tensors: dict[str, torch.Tensor]) -> tuple[bytes, str]:
    """A state dict as a stream, and its digest."""
    source = StateDictSource(tensors)
    return b"".join(source.chunks()), source.digest()


@pytest.mark.parametrize("missing", [1, 500_000, 2_000_000])
def test_fewer_bytes_than_announced(
    missing: int, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    data, digest = content({"a": torch.arange(2_000_000 // 8)})
    name = f"{pushed}/weightVersions/6"
    with unchanged(server, channel, run_id):
        found = upload_refused(channel, name, data[:-missing], size=len(data), digest=digest)
        assert (found.code, found.reason) == (_INVALID, "SIZE_MISMATCH")
    response = upload(channel, [header_frame(name, len(data), digest), *chunk_frames(data)])
    assert response.weight_version.digest == digest


@pytest.mark.parametrize("surplus", [1, 500_000, 2_000_000])
def test_more_bytes_than_announced(
    surplus: int, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    data, digest = content({"a": torch.arange(2_000_000 // 8)})
    name = f"{pushed}/weightVersions/6"
    with unchanged(server, channel, run_id):
        found = upload_refused(channel, name, data + bytes(surplus), size=len(data), digest=digest)
        assert (found.code, found.reason) == (_INVALID, "SIZE_MISMATCH")


def test_a_wrong_digest(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    data, digest = content({"a": torch.arange(1000)})
    with unchanged(server, channel, run_id):
        found = upload_refused(channel, f"{pushed}/weightVersions/6", data, digest=ZERO_DIGEST)
        assert (found.code, found.reason) == (grpc.StatusCode.DATA_LOSS, "DIGEST_MISMATCH")
        assert found.metadata == {"expected": ZERO_DIGEST, "actual": digest}
        damaged = bytearray(data)
        damaged[-1] ^= 1
        found = upload_refused(channel, f"{pushed}/weightVersions/6", bytes(damaged), digest=digest)
        assert found.reason == "DIGEST_MISMATCH"


@pytest.mark.parametrize("digest", ["", "xxh3-128:12", "sha256:" + "0" * 64, "xxh3-64:" + "0" * 16])
def test_a_malformed_digest(
    digest: str, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    with unchanged(server, channel, run_id):
        found = upload_refused(
            channel,
            f"{pushed}/weightVersions/6",
            stream({"a": entry(0, 4)}, b"1234"),
            digest=digest,
        )
        assert found.code == _INVALID
        assert found.reason == "INVALID_ARGUMENT"
        assert found.metadata["field"] == "digest"


@pytest.mark.parametrize("size", [-1, 0, 7, -(2**63)])
def test_a_size_that_no_file_has(
    size: int, server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    with unchanged(server, channel, run_id):
        found = upload_refused(channel, f"{pushed}/weightVersions/6", b"1234", size=size)
        assert (found.reason, found.metadata["field"]) == ("INVALID_ARGUMENT", "size_bytes")


def test_a_size_that_no_disk_has(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    end = 2**50
    header = stream({"a": entry(0, end)})
    with unchanged(server, channel, run_id):
        found = upload_refused(
            channel, f"{pushed}/weightVersions/6", header + b"1234", size=len(header) + end
        )
        assert found.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert found.reason == "STORAGE_FULL"


def test_the_same_version_again_is_answered_as_done(
    server: ServerProcess,
    channel: grpc.Channel,
    client: SyncClient,
    pushed: str,
    run_id: str,
    weights: dict[str, torch.Tensor],
) -> None:
    data, digest = content(weights)
    with unchanged(server, channel, run_id):
        again = client.push(weights, version=5)
        assert again == client.versions()[0]
        # Not even the bytes are needed.
        response = upload(channel, [header_frame(f"{pushed}/weightVersions/5", len(data), digest)])
        assert response.already_existed
        assert response.weight_version.digest == digest


def test_other_bytes_under_a_number_that_is_taken(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    with unchanged(server, channel, run_id):
        found = upload_refused(
            channel, f"{pushed}/weightVersions/5", stream({"a": entry(0, 4)}, b"1234")
        )
        assert (found.code, found.reason) == (grpc.StatusCode.ALREADY_EXISTS, "VERSION_EXISTS")
        assert found.metadata["version"] == "5"


def test_a_number_that_is_not_above_the_newest(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    with unchanged(server, channel, run_id):
        for number in (0, 4):
            found = upload_refused(
                channel, f"{pushed}/weightVersions/{number}", stream({"a": entry(0, 4)}, b"1234")
            )
            assert found.code == grpc.StatusCode.FAILED_PRECONDITION
            assert found.reason == "VERSION_NOT_NEWER"
            assert found.metadata == {"version": str(number), "latest": "5"}


def test_a_stream_that_breaks_the_order(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    data = stream({"a": entry(0, 4)}, b"1234")
    header = header_frame(f"{pushed}/weightVersions/6", len(data))
    nothing = weights_pb2.UploadWeightsRequest()
    streams = {
        "empty": [],
        "no header": chunk_frames(data),
        "two headers": [header, header],
        "a header between the chunks": [header, *chunk_frames(data[:5]), header],
        "an empty message": [header, nothing],
        "an empty message first": [nothing, header],
    }
    with unchanged(server, channel, run_id):
        for case, frames in streams.items():
            found = refused(upload, channel, frames)
            assert found.code == _INVALID, case
            assert found.reason == "INVALID_STREAM", case


def test_a_chunk_that_is_too_large(
    server: ServerProcess, channel: grpc.Channel, pushed: str, run_id: str
) -> None:
    size = 40 << 20
    data = stream({"a": entry(0, size)}, bytes(size))
    name = f"{pushed}/weightVersions/6"
    with unchanged(server, channel, run_id):
        for chunk_size in ((2 << 20) + 1, 5 << 20, 15 << 20):
            frames = [header_frame(name, len(data)), *chunk_frames(data, chunk_size)]
            found = refused(upload, channel, frames)
            assert (found.code, found.reason) == (_INVALID, "INVALID_STREAM"), chunk_size
        # Of a message that is larger still, gRPC itself drops what it can't take in.
        frames = [header_frame(name, len(data)), *chunk_frames(data, 20 << 20)]
        assert refused(upload, channel, frames).code == grpc.StatusCode.RESOURCE_EXHAUSTED
