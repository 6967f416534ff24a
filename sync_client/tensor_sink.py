"""A safetensors byte stream written straight into tensors, and checked on the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch

from sync_client.tensor_copies import copy_all
from sync_client.tensor_fit import fit_problems, name_problems, overlapping
from sync_client.tensor_memory import (
    digest_of,
    from_bytes,
    identity,
    is_flat,
    memory_view,
    settle,
    store,
    torch_type,
)
from weightsync.digests import StreamDigester, tensor_digest
from weightsync.layout import Layout, TensorEntry

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_PROBLEMS = 5


class IntoMismatch(ValueError):
    """The version does not fit the tensors it should go into. Do not retry as it is.

    `problems` holds one line a tensor, all of them; the message shows the first five. Raised by
    `begin` before a byte is written, or by `finish` when tensors of `into` that share memory
    would need different values; then `into` holds a mix.
    """

    def __init__(self, problems: Collection[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)  # `args` as given, so that the exception can be pickled

    def __str__(self) -> str:
        more = len(self.problems) - _MAX_PROBLEMS
        rest = (f"and {more} more",) if more > 0 else ()
        return "; ".join(self.problems[:_MAX_PROBLEMS] + rest)


class TruncatedStream(ValueError):
    """The stream ended before its last tensor was whole. Read the rest from `received`, or anew."""

    def __init__(self, received: int, expected: int) -> None:
        super().__init__(received, expected)
        self.received = received
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.received} of {self.expected} data bytes arrived"


class StateDictSink:
    """Takes the data section of a safetensors stream in order and ends with a state dict.

    `into`: the tensors to fill, for example `model.state_dict()`; None makes new ones on the CPU.
    Its names and the version's names must be the same: a missing one and a surplus one are both
    refused, because weights that silently stay old are the fault that costs the most.
    `names`: the version holds only these tensors (a partial pull). Then exactly these must be in
    the version, and in `into`, whose other tensors stay as they are.

    Contiguous CPU tensors are written in place; any other one through a staging buffer of the
    size of the largest of them. Grad mode, `requires_grad` and inference mode do not matter.
    The bytes are in `into` before the version's digest can be compared: when `finish`, or the
    comparison after it, fails and `touched` is True, `into` holds a mix and must be pulled again.
    Memory that is mapped read-only ends the process, as with any write by torch.

    Not safe for several threads. Order: `begin`, then `write` (or `window` and `advance`), then
    `finish`; `begin` may start over at any time.
    """

    def __init__(
        self,
        into: Mapping[str, torch.Tensor] | None = None,
        names: Collection[str] | None = None,
    ) -> None:
        self._into = into
        self._names = None if names is None else frozenset(names)
        self._layout: Layout | None = None
        self.received = 0
        """Bytes of the data section taken so far; a broken transfer can go on from here."""
        self.touched = False
        """Whether a byte may have been written into the tensors since `begin`."""

    def begin(self, layout: Layout) -> None:
        """Checks the version against `into` and `names`, and makes the tensors where none are.

        Raises IntoMismatch, or UnsupportedTensor for a dtype that this torch lacks.
        """
        self._layout = None
        types = {e.name: torch_type(e.name, e.dtype, e.shape) for e in layout.tensors}
        if self._names is not None:
            _refuse(name_problems(self._names, types, "asked for"))
        if self._into is None:
            self._tensors = {
                name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in types.items()
            }
        else:
            wanted = self._into.keys() if self._names is None else self._names & self._into.keys()
            problems = name_problems(wanted, types, "in `into`")
            for name, (dtype, shape) in types.items():
                if name in self._into:
                    problems += fit_problems(name, self._into[name], dtype, shape)
            _refuse(problems)
            self._tensors = {name: self._into[name] for name in types}
        self._layout = layout
        self._entries = layout.tensors
        staged = (t.nbytes for t in self._tensors.values() if not is_flat(t))
        self._staging = torch.empty(max(staged, default=0), dtype=torch.uint8)
        self._index = 0
        self.received = 0
        self.touched = False
        self._digester = StreamDigester(layout)
        settle({t.device for t in self._tensors.values()})  # nobody reads them on a GPU any more
        self._open()

    def write(self, data: ReadableBuffer) -> None:
        """Takes the next bytes of the data section, cut anywhere.

        Raises ValueError for bytes past the end of the layout (those before it are written).
        """
        source = memoryview(data).cast("B")
        while source:
            target = self.window(len(source))
            if not target:
                raise ValueError(f"{len(source)} bytes more than the header announced")
            target[:] = source[: len(target)]
            self.advance(len(target))
            source = source[len(target) :]

    def fill(self, data: memoryview) -> None:
        """Takes the whole data section at once, from memory: several threads copy and hash.

        Right after `begin`. Where a tensor needs staging it is the same as `write`.
        """
        layout = self._started()
        filled = [entry for entry in layout.tensors if entry.nbytes]
        if not all(is_flat(self._tensors[entry.name]) for entry in filled):
            self.write(data)
            return
        self.touched = True
        jobs: list[tuple[memoryview, memoryview]] = []
        for entry in filled:
            tensor = self._tensors[entry.name]
            if not tensor.is_inference():
                torch.autograd.graph.increment_version(tensor)
            jobs.append((memory_view(tensor), data[entry.begin : entry.end]))
        found = copy_all(jobs)
        digests = {e.name: tensor_digest(b"") for e in layout.tensors}
        digests.update(zip((e.name for e in filled), found, strict=True))
        self._digester = StreamDigester.of(layout, digests)
        self.received, self._index = layout.data_bytes, len(self._entries)

    def window(self, limit: int) -> memoryview:
        """Where the next bytes belong: a writable view of 1 to `limit` bytes, of one tensor.

        For `socket.recv_into`; call `advance` with what was filled. Empty once all has arrived.
        """
        self._started()
        if self._index == len(self._entries):
            return memoryview(b"")
        self.touched = True
        at = self.received - self._entries[self._index].begin
        return self._view[at : at + limit]

    def advance(self, count: int) -> None:
        """Counts `count` filled bytes of the last `window` as received and hashes them."""
        self._started()
        if not count:
            return
        if self._index == len(self._entries):
            raise ValueError("every tensor is whole already")
        entry = self._entries[self._index]
        at = self.received - entry.begin
        if not 0 < count <= len(self._view) - at:
            raise ValueError(f"{count} bytes do not fit into the rest of tensor {entry.name!r}")
        self._digester.update(self._view[at : at + count])
        self.received += count
        if self.received == entry.end:
            self._close(entry)
            self._open()

    def finish(self) -> tuple[dict[str, torch.Tensor], str]:
        """(name -> tensor in layout order, version digest of the bytes that arrived).

        With `into`, the tensors are its own. Raises TruncatedStream, and IntoMismatch when
        tensors that share memory did not end up with the version's values.
        """
        self._complete()
        settle({t.device for t in self._tensors.values()})
        if self._into is not None:
            _refuse(self._clashes())
        return dict(self._tensors), self._digester.version_digest()

    def digest(self) -> str:
        """The version digest of the bytes that arrived. Raises TruncatedStream before the last."""
        self._complete()
        return self._digester.version_digest()

    def tensor_digests(self) -> dict[str, str]:
        """name -> digest of the bytes that arrived. Raises TruncatedStream before the last one."""
        self._complete()
        return self._digester.tensor_digests()

    def _open(self) -> None:
        """Goes to the next tensor that takes bytes, past those that take none."""
        while self._index < len(self._entries):
            entry = self._entries[self._index]
            tensor = self._tensors[entry.name]
            if entry.begin < entry.end:
                flat = is_flat(tensor)
                self._view = memory_view(tensor if flat else self._staging[: tensor.nbytes])
                if not tensor.is_inference():  # else autograd would use saved values that are gone
                    torch.autograd.graph.increment_version(tensor)
                return
            self._close(entry)

    def _close(self, entry: TensorEntry) -> None:
        tensor = self._tensors[entry.name]
        if entry.begin < entry.end and not is_flat(tensor):
            staged = self._staging[: tensor.nbytes]
            store(tensor, from_bytes(staged, tensor.dtype, tensor.shape))
        self._index += 1

    def _clashes(self) -> list[str]:
        """Tensors that share memory with others and hold something else than what arrived.

        Tied weights that are equal in the version pass. Only what overlaps is read again.
        """
        arrived = self._digester.tensor_digests()
        first: dict[tuple[object, ...], str] = {}
        suspects: set[str] = set()
        for name, tensor in self._tensors.items():
            if not tensor.numel():
                continue
            twin = first.setdefault(identity(tensor), name)
            if arrived[twin] != arrived[name]:
                suspects |= {twin, name}
        suspects |= overlapping({name: self._tensors[name] for name in first.values()})
        return [
            f"tensor {name!r}: shares memory in `into` with a tensor that the version has different"
            for name in sorted(suspects)
            if digest_of(self._tensors[name]) != arrived[name]
        ]

    def _complete(self) -> None:
        layout = self._started()
        if self._index < len(self._entries):
            raise TruncatedStream(self.received, layout.data_bytes)

    def _started(self) -> Layout:
        if self._layout is None:
            raise RuntimeError("begin(layout) comes first")
        return self._layout


def _refuse(problems: list[str]) -> None:
    if problems:
        raise IntoMismatch(problems)
