"""The bytes of one shard on their way into the blob of the whole version."""

from __future__ import annotations

from collections.abc import Sequence

from sync_server.domain.errors import InvalidHeader
from weightsync.digests import StreamDigester
from weightsync.layout import Layout, TensorEntry
from weightsync.slices import Slice


class Scatter:
    """Takes the data section of a shard in order, cut anywhere, and puts each slice in its place.

    What lies in one piece of the blob is copied there at once; of a slice that is spread over rows,
    as a slice along any but the first dimension is, one tensor is held back until it is whole.
    """

    def __init__(self, shard: Layout, slices: Sequence[Slice], whole: Layout, data: memoryview):
        """`data`: the data section of the whole version. Raises InvalidHeader for a slice of
        elements that are no whole bytes."""
        self.digester = StreamDigester(shard)
        self._data = data
        entries = whole.by_name()
        self._parts = [
            (entry, part, entries[entry.name])
            for entry, part in zip(shard.tensors, slices, strict=True)
            if entry.nbytes
        ]
        for entry, part, _ in self._parts:
            if not part.is_whole and _item_bytes(entry, part) * _count(part) != entry.nbytes:
                raise InvalidHeader(f"tensor {entry.name!r}: {entry.dtype} can't be sliced")
        self._index = 0
        self._at = 0
        self._held = bytearray()

    def write(self, data: memoryview) -> None:
        """Takes the next bytes. Raises ValueError for more than the shard has."""
        self.digester.update(data)
        while data:
            entry, part, target = self._parts[self._index]
            take = data[: entry.nbytes - self._at]
            start = _flat_start(part)
            if start is not None:
                begin = target.begin + start * _item_bytes(entry, part) + self._at
                self._data[begin : begin + len(take)] = take
            else:
                self._held += take
            self._at += len(take)
            data = data[len(take) :]
            if self._at == entry.nbytes:
                if start is None:
                    self._spread(entry, part, target)
                self._index += 1
                self._at = 0

    def _spread(self, entry: TensorEntry, part: Slice, target: TensorEntry) -> None:
        import numpy as np  # only where slices are put together: the server starts without it

        item = _item_bytes(entry, part)
        whole = np.frombuffer(self._data[target.begin : target.end], np.uint8)
        box = tuple(
            slice(start, start + size) for start, size in zip(part.start, part.shape, strict=True)
        )
        source = np.frombuffer(self._held, np.uint8).reshape(*part.shape, item)
        whole.reshape(*part.full, item)[box] = source
        self._held = bytearray()


def _count(part: Slice) -> int:
    count = 1
    for size in part.shape:
        count *= size
    return count


def _item_bytes(entry: TensorEntry, part: Slice) -> int:
    return entry.nbytes // max(1, _count(part))


def _flat_start(part: Slice) -> int | None:
    """The index of the first element in the flat tensor, where the slice is one piece of it."""
    strides, stride = [], 1
    for size in reversed(part.full):
        strides.append(stride)
        stride *= size
    strides.reverse()
    cut = next((i for i, n in enumerate(part.shape) if n != part.full[i]), None)
    if cut is not None and any(size != 1 for size in part.shape[:cut]):
        return None
    after = range(cut + 1, len(part.shape)) if cut is not None else ()
    if any(part.shape[axis] != part.full[axis] for axis in after):
        return None
    return sum(start * step for start, step in zip(part.start, strides, strict=True))
