"""Sending a version, or some tensors of it: which bytes, in which order (pure but for the view)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sync_server.catalog import OpenBlob
from sync_server.domain.errors import OffsetOutOfRange, TensorNotFound
from weightsync.digests import version_digest
from weightsync.layout import UnknownTensor


@dataclass(frozen=True, slots=True)
class Download:
    """One safetensors stream: `segments` of memory that together are `size_bytes` long."""

    size_bytes: int
    digest: str
    segments: tuple[memoryview, ...]

    def pieces(self, offset: int, piece_bytes: int) -> Iterator[tuple[memoryview, ...]]:
        """The bytes from `offset` on in pieces of `piece_bytes`; each is one or more views."""
        piece: list[memoryview] = []
        room = piece_bytes
        for segment in self.segments:
            if offset >= len(segment):
                offset -= len(segment)
                continue
            position, offset = offset, 0
            while position < len(segment):
                part = segment[position : position + room]
                piece.append(part)
                position += len(part)
                room -= len(part)
                if room == 0:
                    yield tuple(piece)
                    piece, room = [], piece_bytes
        if piece:
            yield tuple(piece)


def plan_download(blob: OpenBlob, tensor_names: Sequence[str], read_offset: int) -> Download:
    """What to send. No names: the file as it is.

    Raises TensorNotFound, and OffsetOutOfRange for an offset below 0 or beyond the end.
    """
    if tensor_names:
        download = _subset(blob, tensor_names)
    else:
        download = Download(blob.version.size_bytes, blob.version.digest, (blob.view,))
    if not 0 <= read_offset <= download.size_bytes:
        raise OffsetOutOfRange(
            f"read_offset {read_offset}: the stream has {download.size_bytes} bytes",
            size_bytes=download.size_bytes,
        )
    return download


def _subset(blob: OpenBlob, tensor_names: Sequence[str]) -> Download:
    try:
        layout, ranges = blob.layout.select(tensor_names)
    except UnknownTensor as error:
        raise TensorNotFound(
            f"version {blob.version.number}: {error}", version=blob.version.number
        ) from error
    digests = blob.tensor_digests()
    digest = version_digest(
        (entry.name, entry.dtype, entry.shape, digests[entry.name]) for entry in layout.tensors
    )
    start = blob.layout.data_offset
    data = (blob.view[start + begin : start + end] for begin, end in ranges)
    return Download(layout.total_bytes, digest, (memoryview(layout.header), *data))
