"""State dicts as safetensors byte streams and back, without a second copy of the weights.

This module, with `tensor_memory.py` and `tensor_sink.py` behind it, is the only part of the SDK
that imports torch. `StateDictSource` turns a state dict into a stream, `StateDictSink` turns a
stream into tensors, `tensors_from_buffer` shows a stream that is already in memory as tensors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from sync_client.tensor_memory import (
    SAFETENSORS_DTYPES,
    TORCH_DTYPES,
    UnsupportedTensor,
    describe,
    digest_of,
    flat_copy,
    from_bytes,
    identity,
    is_flat,
    memory_view,
    settle,
    size_of,
    torch_type,
)
from sync_client.tensor_sink import IntoMismatch, StateDictSink, TruncatedStream
from weightsync.digests import version_digest
from weightsync.layout import Layout, TensorEntry, build

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = [
    "SAFETENSORS_DTYPES",
    "TORCH_DTYPES",
    "IntoMismatch",
    "StateDictSink",
    "StateDictSource",
    "TruncatedStream",
    "UnsupportedTensor",
    "state_dict_digest",
    "tensor_from_buffer",
    "tensors_from_buffer",
]

CHUNK_BYTES = 1 << 20
"""The chunk size at which gRPC in Python moves the most bytes a second."""

_JOB_BYTES = 8 << 20  # what one thread hashes at a time: large enough that threads pay
_MIN_THREADS = 2  # also of two cores: a trainer that pushes does nothing else
_MAX_THREADS = 4  # one thread hashes about as fast as two cores read memory, so more pay little


class StateDictSource:
    """A state dict as one safetensors byte stream: the header, then the data in layout order.

    `state_dict` maps names to tensors (also parameters) of any strides, on any device. They are
    read where they are, and only when asked for: a contiguous CPU tensor is never copied, any
    other one is copied to the CPU alone and dropped again. Tied weights are written once a name.
    The memory is kept alive, not frozen: an optimizer step during a push changes what is sent,
    and the receiver's digest check then fails.

    Raises UnsupportedTensor before anything is read, for what `describe` refuses.
    """

    layout: Layout

    def __init__(
        self,
        state_dict: Mapping[str, torch.Tensor],
        *,
        metadata: Mapping[str, str] | None = None,
        threads: int | None = None,
    ) -> None:
        specs = [describe(name, tensor) for name, tensor in state_dict.items()]
        self.layout = build(specs, metadata)
        # Views of our own, so that `param.data = …` cannot take the memory away under us.
        self._tensors = {name: tensor.detach() for name, tensor in state_dict.items()}
        self._devices = {tensor.device for tensor in self._tensors.values()}
        self._threads = threads or max(_MIN_THREADS, min(_MAX_THREADS, (os.cpu_count() or 1) // 2))

    def digest(self) -> str:
        """The version digest, "xxh3-128:…", of what the tensors hold now. Reads every byte once.

        Not cached, because weights change. Contiguous CPU tensors are hashed on several threads.
        """
        digests = self.tensor_digests()
        return version_digest((e.name, e.dtype, e.shape, digests[e.name]) for e in self._entries)

    def tensor_digests(self) -> dict[str, str]:
        """name -> "xxh3-64:…" of what each tensor holds now, in layout order.

        Names that show the same memory are hashed once.
        """
        settle(self._devices)
        keys = {name: identity(tensor) for name, tensor in self._tensors.items()}
        unique = {keys[entry.name]: self._tensors[entry.name] for entry in self._entries}
        flat = {key: tensor for key, tensor in unique.items() if is_flat(tensor)}
        jobs = _jobs(flat)
        found: dict[tuple[object, ...], str] = {}
        threads = min(self._threads, len(jobs))
        if threads > 1:
            with ThreadPoolExecutor(threads, thread_name_prefix="weightsync-digest") as pool:
                for part in pool.map(_digests, jobs):
                    found.update(part)
        else:
            for job in jobs:
                found.update(_digests(job))
        for key, tensor in unique.items():
            if key not in found:  # one copy at a time, on this thread
                found[key] = digest_of(tensor)
        return {entry.name: found[keys[entry.name]] for entry in self._entries}

    def segments(self, offset: int = 0) -> Iterator[memoryview]:
        """The stream from byte `offset` on, one view a tensor (format 'B'), in order, no copies.

        For `socket.sendmsg`. A view stays valid for as long as it is held. Raises ValueError for
        an offset outside the stream.
        """
        if not 0 <= offset <= self.layout.total_bytes:
            raise ValueError(f"offset {offset} is not within 0..{self.layout.total_bytes}")
        settle(self._devices)
        header = memoryview(self.layout.header)
        if offset < len(header):
            yield header[offset:]
        skip = max(0, offset - len(header))
        for entry in self._entries:
            if entry.end <= skip or entry.end == entry.begin:
                continue
            tensor = self._tensors[entry.name]
            view = memory_view(tensor if is_flat(tensor) else flat_copy(tensor))
            yield view[max(0, skip - entry.begin) :]

    def chunks(self, chunk_bytes: int = CHUNK_BYTES, offset: int = 0) -> Iterator[memoryview]:
        """The stream from byte `offset` on, in views of 1 to `chunk_bytes` bytes.

        Large tensors are cut into views of their own memory; what is smaller than a quarter of
        a chunk is gathered into one buffer, so that thousands of biases do not make thousands
        of messages. Raises ValueError for an offset outside the stream or no chunk size.
        """
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be at least 1, not {chunk_bytes}")
        pending: list[memoryview] = []
        gathered = 0
        for segment in self.segments(offset):
            for start in range(0, len(segment), chunk_bytes):
                piece = segment[start : start + chunk_bytes]
                small = len(piece) * 4 < chunk_bytes
                if pending and (not small or gathered + len(piece) > chunk_bytes):
                    yield _joined(pending)
                    pending, gathered = [], 0
                if small:
                    pending.append(piece)
                    gathered += len(piece)
                else:
                    yield piece
        if pending:
            yield _joined(pending)

    @property
    def _entries(self) -> Sequence[TensorEntry]:
        return self.layout.tensors


def state_dict_digest(state_dict: Mapping[str, torch.Tensor]) -> str:
    """The version digest, "xxh3-128:…", of a state dict: equal exactly when every name, dtype,
    shape and byte is equal, wherever the tensors lie. Raises UnsupportedTensor.
    """
    return StateDictSource(state_dict).digest()


def tensors_from_buffer(
    buffer: WriteableBuffer, layout: Layout, *, data_start: int | None = None
) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors stream that lies in memory; see `tensor_from_buffer`."""
    return {
        entry.name: tensor_from_buffer(buffer, layout, entry, data_start=data_start)
        for entry in layout.tensors
    }


def tensor_from_buffer(
    buffer: WriteableBuffer, layout: Layout, entry: TensorEntry, *, data_start: int | None = None
) -> torch.Tensor:
    """One tensor over the memory of `buffer`, without a copy; the buffer stays alive with it.

    `buffer` holds the whole stream, or only its data section with `data_start=0`. It must be
    writable, since torch knows no read-only tensors: map a file with `mmap.ACCESS_COPY`. A tensor
    whose bytes are not aligned to its elements is copied. While a tensor lives, the buffer can
    be neither resized nor closed (BufferError).

    Raises ValueError for a read-only or too short buffer, UnsupportedTensor for a dtype that
    torch lacks.
    """
    dtype, shape = torch_type(entry.name, entry.dtype, entry.shape)
    view = memoryview(buffer).cast("B")  # torch alone would not keep a bytearray from resizing
    if view.readonly:
        raise ValueError("the buffer is read-only; map the file with mmap.ACCESS_COPY")
    start = (layout.data_offset if data_start is None else data_start) + entry.begin
    nbytes = size_of(dtype, shape)
    if start < 0 or start + nbytes > len(view):
        raise ValueError(
            f"tensor {entry.name!r} ends at byte {start + nbytes}, the buffer at {len(view)}"
        )
    if not nbytes:
        return torch.empty(shape, dtype=dtype)
    memory = torch.frombuffer(view, dtype=torch.uint8, count=nbytes, offset=start)
    if memory.data_ptr() % dtype.itemsize:
        memory = memory.clone()
    return from_bytes(memory, dtype, shape)


def _jobs(
    tensors: Mapping[tuple[object, ...], torch.Tensor],
) -> list[dict[tuple[object, ...], torch.Tensor]]:
    """Cuts the tensors into parts of about _JOB_BYTES, the largest tensors first and alone."""
    jobs: list[dict[tuple[object, ...], torch.Tensor]] = []
    room = 0
    for key, tensor in sorted(tensors.items(), key=lambda item: -item[1].nbytes):
        if room <= 0:
            jobs.append({})
            room = _JOB_BYTES
        jobs[-1][key] = tensor
        room -= tensor.nbytes
    return jobs


def _digests(
    tensors: Mapping[tuple[object, ...], torch.Tensor],
) -> dict[tuple[object, ...], str]:
    return {key: digest_of(tensor) for key, tensor in tensors.items()}


def _joined(pieces: list[memoryview]) -> memoryview:
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
