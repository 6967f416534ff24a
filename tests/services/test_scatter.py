"""Bytes of shards on their way into the whole blob: any grid, any dtype, cut anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_server.domain.errors import InvalidHeader
from sync_server.domain.shards import whole_tensors
from sync_server.scatter import Scatter
from weightsync.digests import StreamDigester
from weightsync.layout import DTYPE_BITS, Layout, build, parse
from weightsync.slices import Placement, decode, encode

SLICEABLE = sorted(name for name, bits in DTYPE_BITS.items() if bits % 8 == 0)


class Stored(NamedTuple):
    """A tensor as an array of bytes: its last dimension is that of an element's bytes."""

    dtype: str
    array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class Shard(NamedTuple):
    """What one rank sends: its layout, and its data section."""

    layout: Layout
    data: bytes


def shard_of(tensors: dict[str, Stored], slices: dict[str, Placement]) -> Shard:
    """As a sender lays it out, and a server reads it."""
    layout = parse(
        build([(n, t.dtype, t.array.shape[:-1]) for n, t in tensors.items()], encode(slices)).header
    )
    return Shard(layout, b"".join(tensors[e.name].array.tobytes() for e in layout.tensors))


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Stored]:
    """Random bytes under a few names."""
    found = {}
    for name in draw(st.lists(st.sampled_from("abcde"), unique=True, max_size=3)):
        dtype = draw(st.sampled_from(SLICEABLE))
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
        seed = np.random.default_rng(draw(st.integers(0, 2**16)))
        array = seed.integers(0, 256, (*shape, DTYPE_BITS[dtype] // 8), dtype=np.uint8)
        found[name] = Stored(dtype, array)
    return found


def cut(draw: st.DrawFn, tensors: dict[str, Stored], count: int) -> list[Shard]:
    """Each tensor on a grid of its own, its parts dealt out; a rank has one part of it at most."""
    parts: list[dict[str, Stored]] = [{} for _ in range(count)]
    slices: list[dict[str, Placement]] = [{} for _ in range(count)]
    for name, (dtype, array) in tensors.items():
        full = array.shape[:-1]
        axes = draw(st.lists(st.sampled_from(range(len(full))), max_size=2)) if full else []
        edges = [[0, size] for size in full]
        for axis in axes:
            edges[axis] = sorted([*edges[axis], draw(st.integers(0, full[axis]))])
        boxes = list(itertools.product(*map(itertools.pairwise, edges)))
        ranks = draw(st.permutations(range(count)))
        for rank, box in zip(ranks, boxes, strict=False):
            window = tuple(slice(begin, end) for begin, end in box)
            parts[rank][name] = Stored(dtype, array[window])
            slices[rank][name] = full, tuple(begin for begin, _ in box)
        if len(boxes) < count and draw(st.booleans()):
            parts[ranks[-1]][name] = parts[ranks[0]][name]
            slices[ranks[-1]][name] = slices[ranks[0]][name]
    return [shard_of(*both) for both in zip(parts, slices, strict=True)]


class Feed:
    """A shard that is written piece by piece."""

    def __init__(self, shard: Shard, whole: Layout, blob: bytearray) -> None:
        self.left = memoryview(shard.data)
        self.scatter = Scatter(shard.layout, decode(shard.layout), whole, memoryview(blob))

    def give(self, count: int) -> None:
        """The next bytes, in memory that is used for something else right after."""
        piece = bytearray(self.left[:count])
        self.scatter.write(memoryview(piece))
        piece[:] = b"\xaa" * len(piece)
        self.left = self.left[count:]


def assembled(shards: Sequence[Shard]) -> tuple[Layout, bytearray]:
    """The layout of the whole, and a blob full of what must not stay."""
    whole = build(whole_tensors({i: decode(shard.layout) for i, shard in enumerate(shards)}))
    return whole, bytearray(b"\x55" * whole.data_bytes)


@given(st.data())
def test_the_whole_is_what_was_cut(data: st.DataObject) -> None:
    sent = data.draw(tensors())
    shards = data.draw(st.composite(cut)(sent, 9))
    whole, blob = assembled(shards)
    feeds = [Feed(shard, whole, blob) for shard in shards]
    sizes = data.draw(st.lists(st.integers(0, 70), min_size=1, max_size=30))
    for size, index in zip(sizes, itertools.cycle(range(len(feeds))), strict=False):
        feeds[index].give(size)  # in turns, since streams come at the same time
    for feed in reversed(feeds):
        feed.give(len(feed.left))
    assert {entry.name for entry in whole.tensors} == set(sent)
    for entry in whole.tensors:
        assert (entry.dtype, entry.shape) == (sent[entry.name].dtype, entry.shape)
        assert blob[entry.begin : entry.end] == sent[entry.name].array.tobytes(), entry.name
    for shard, feed in zip(shards, feeds, strict=True):
        expected = StreamDigester(shard.layout)
        expected.update(shard.data)
        assert feed.scatter.digester.version_digest() == expected.version_digest()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 10_000])
def test_pieces_of_any_size(step: int) -> None:
    array = np.arange(6 * 5 * 4 * 2, dtype=np.uint8).reshape(6, 5, 4, 2)
    sent = {"w": Stored("BF16", array)}
    corners = list(itertools.product([(0, 2), (2, 6)], [(0, 5)], [(0, 1), (1, 4)]))
    shards = [
        shard_of(
            {"w": Stored("BF16", array[tuple(slice(*edge) for edge in box)])},
            {"w": ((6, 5, 4), tuple(begin for begin, _ in box))},
        )
        for box in corners
    ]
    whole, blob = assembled(shards)
    for shard in shards:
        feed = Feed(shard, whole, blob)
        while feed.left:
            feed.give(step)
    assert bytes(blob) == sent["w"].array.tobytes()


def test_columns_of_several_tensors() -> None:
    # Each of them is held back until it is whole.
    arrays = {
        "a": Stored("I16", np.arange(30, dtype=np.uint8).reshape(3, 5, 2)),
        "b": Stored("F8_E5M2", np.arange(40, 68, dtype=np.uint8).reshape(4, 7, 1)),
        "c": Stored("F32", np.arange(100, 148, dtype=np.uint8).reshape(2, 6, 4)),
    }
    shards = [
        shard_of(
            {n: Stored(t.dtype, t.array[:, begin : end or None]) for n, t in arrays.items()},
            {n: (t.array.shape[:-1], (0, begin)) for n, t in arrays.items()},
        )
        for begin, end in ((0, 1), (1, 3), (3, 0))
    ]
    whole, blob = assembled(shards)
    for shard in shards:
        Feed(shard, whole, blob).give(len(shard.data))
    for entry in whole.tensors:
        assert bytes(blob[entry.begin : entry.end]) == arrays[entry.name].array.tobytes()


def test_a_shard_that_begins_again_replaces_itself() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    left, right = (
        shard_of({"w": Stored("U8", array[:, a:b])}, {"w": ((4, 6), (0, a))})
        for a, b in ((0, 2), (2, 6))
    )
    whole, blob = assembled([left, right])
    Feed(right, whole, blob).give(5)  # and no more
    for shard in (left, right):
        feed = Feed(shard, whole, blob)
        feed.give(24)
    assert bytes(blob) == array.tobytes()


def test_more_bytes_than_there_are() -> None:
    shard = shard_of({"w": Stored("U8", np.ones((4, 1), np.uint8))}, {})
    whole, blob = assembled([shard])
    feed = Feed(shard, whole, blob)
    with pytest.raises(ValueError, match="left"):
        feed.scatter.write(memoryview(b"12345"))
    assert bytes(blob) == b"\x55" * 4


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_elements_of_less_than_a_byte(dtype: str) -> None:
    whole = build([("w", dtype, (8,))])
    blob = bytearray(whole.data_bytes)
    sliced = parse(build([("w", dtype, (4,))], encode({"w": ((8,), (0,))})).header)
    with pytest.raises(InvalidHeader, match=f"{dtype} can't be sliced"):
        Scatter(sliced, decode(sliced), whole, memoryview(blob))
    # All of it is no slice.
    data = bytes(range(1, whole.data_bytes + 1))
    Scatter(whole, decode(whole), whole, memoryview(blob)).write(memoryview(data))
    assert bytes(blob) == data
