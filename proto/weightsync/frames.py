"""The messages of the two byte streams, without a protobuf object around every chunk.

`UploadWeightsRequest` and `DownloadWeightsResponse` have the same shape: field 1 is the header,
field 2 the chunk. Their bytes are written and read here by hand, so that a chunk is copied once
on its way out and not at all on its way in. The wire format is protobuf's own: any other client
or server that uses the generated classes talks to this one. See docs/decisions/frames.md.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from google.protobuf.message import DecodeError

from weightsync.v1.weights_pb2 import (
    DownloadWeightsHeader,
    DownloadWeightsResponse,
    UploadWeightsHeader,
    UploadWeightsRequest,
)

CHUNK_BYTES = 1 << 20  # the fastest size through gRPC, measured: 64 KiB and 16 MiB are 5 x slower
MAX_CHUNK_BYTES = 2 << 20
_CHUNK_TAG = 0x12  # field 2, length-delimited
_MAX_VARINT = 5  # a frame is far below 4 GiB

Buffer: TypeAlias = bytes | bytearray | memoryview


class FrameError(ValueError):
    """A stream message that is neither a header nor a chunk. Do not retry."""


def chunk_frame(*parts: Buffer) -> bytes:
    """The stream message that carries the bytes of `parts`, one after the other, as one chunk."""
    size = sum(len(part) for part in parts)
    prefix = bytearray((_CHUNK_TAG,))
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return b"".join((prefix, *parts))


def chunk_of(frame: bytes) -> memoryview | None:
    """The bytes of a frame that is exactly one chunk, without a copy; None for any other frame."""
    if not frame or frame[0] != _CHUNK_TAG:
        return None
    size = 0
    for index in range(1, min(len(frame), 1 + _MAX_VARINT)):
        byte = frame[index]
        size |= (byte & 0x7F) << 7 * (index - 1)
        if byte < 0x80:
            body = memoryview(frame)[index + 1 :]
            return body if len(body) == size else None
    return None


def upload_header_frame(header: UploadWeightsHeader) -> bytes:
    """The first message of an upload."""
    return UploadWeightsRequest(header=header).SerializeToString()


def download_header_frame(header: DownloadWeightsHeader) -> bytes:
    """The first message of a download."""
    return DownloadWeightsResponse(header=header).SerializeToString()


def read_upload_frame(frame: bytes) -> UploadWeightsHeader | memoryview:
    """A message of an upload: its header, or the bytes of a chunk. Raises FrameError."""
    chunk = chunk_of(frame)
    if chunk is None:
        message = _parse(UploadWeightsRequest, frame)
        if message.WhichOneof("payload") == "header":
            return message.header
        chunk = _chunk(message)
    if len(chunk) > MAX_CHUNK_BYTES:
        raise FrameError(f"a chunk of {len(chunk)} bytes: {MAX_CHUNK_BYTES} are allowed")
    return chunk


def read_download_frame(frame: bytes) -> DownloadWeightsHeader | memoryview:
    """A message of a download: its header, or the bytes of a chunk. Raises FrameError."""
    chunk = chunk_of(frame)
    if chunk is not None:
        return chunk
    message = _parse(DownloadWeightsResponse, frame)
    if message.WhichOneof("payload") == "header":
        return message.header
    return _chunk(message)


_Message = TypeVar("_Message", UploadWeightsRequest, DownloadWeightsResponse)


def _parse(kind: type[_Message], frame: bytes) -> _Message:
    try:
        return kind.FromString(frame)
    except DecodeError as error:
        raise FrameError("a stream message that is no protobuf message") from error


def _chunk(message: UploadWeightsRequest | DownloadWeightsResponse) -> memoryview:
    if message.WhichOneof("payload") != "chunk":
        raise FrameError("a stream message with neither a header nor a chunk")
    return memoryview(message.chunk)
