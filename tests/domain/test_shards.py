"""Whether slices make whole tensors: against an array that counts how often each element comes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from sync_server.domain.errors import InvalidArgument, InvalidHeader
from sync_server.domain.shards import MAX_SHARDS, Whole, check_shard, missing, whole_tensors


@dataclass(frozen=True)
class Part:
    """A slice, as the domain sees one."""

    shape: tuple[int, ...]
    start: tuple[int, ...]
    full: tuple[int, ...]
    name: str = "w"
    dtype: str = "F32"


def span(part: Part) -> tuple[slice, ...]:
    """Where it lies."""
    return tuple(slice(a, a + n) for a, n in zip(part.start, part.shape, strict=True))


def fits(parts: Sequence[Part]) -> bool:
    """The model: every element comes once, the same slice counting once."""
    if len({(part.name, part.dtype, part.full) for part in parts}) != 1:
        return False
    count = np.zeros(parts[0].full, np.int64)
    for part in {(part.start, part.shape): part for part in parts}.values():
        count[span(part)] += 1
    return bool((count == 1).all())


def accepted(parts: Sequence[Part]) -> bool:
    """What the code says, each slice from a shard of its own."""
    shards = {index: [part] for index, part in enumerate(parts)}
    try:
        found = whole_tensors(shards)
    except InvalidHeader:
        return False
    assert found == [Whole(parts[0].name, parts[0].dtype, parts[0].full)]
    return True


def grid_of(full: tuple[int, ...], bounds: Sequence[Sequence[int]]) -> list[Part]:
    """The tensor, cut at `bounds` of each dimension; parts with no element too."""
    edges = [sorted([0, *inner, size]) for inner, size in zip(bounds, full, strict=True)]
    return [
        Part(
            tuple(end - begin for begin, end in box),
            tuple(begin for begin, _ in box),
            full,
        )
        for box in itertools.product(*map(itertools.pairwise, edges))
    ]


@st.composite
def grids(draw: st.DrawFn) -> list[Part]:
    """A tensor of up to three dimensions, cut anywhere, in any order, some parts sent twice."""
    full = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    bounds = [draw(st.lists(st.integers(0, size), max_size=3)) for size in full]
    parts = grid_of(full, bounds)
    again = draw(st.lists(st.sampled_from(parts), max_size=2))
    return draw(st.permutations([*parts, *again]))


def boxes_in(full: tuple[int, ...]) -> st.SearchStrategy[Part]:
    """Any box."""
    edges = [st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in full]
    return st.tuples(*edges).map(
        lambda box: Part(tuple(b - a for a, b in box), tuple(a for a, _ in box), full)
    )


@given(grids())
def test_a_grid_is_whole(parts: list[Part]) -> None:
    assert fits(parts)
    assert accepted(parts)


@given(grids(), st.data())
def test_a_grid_with_a_part_missing(parts: list[Part], data: st.DataObject) -> None:
    filled = [part for part in parts if np.prod(part.shape)]
    assume(len({*filled}) > 1)
    gone = data.draw(st.sampled_from(filled))
    rest = [part for part in parts if part != gone]
    assert not fits(rest)
    assert not accepted(rest)


@given(grids(), st.data())
def test_a_grid_with_a_part_moved(parts: list[Part], data: st.DataObject) -> None:
    filled = [part for part in parts if np.prod(part.shape)]
    assume(filled)
    part = data.draw(st.sampled_from(filled))
    start = tuple(
        data.draw(st.integers(0, size - n)) for n, size in zip(part.shape, part.full, strict=True)
    )
    assume(start != part.start)
    moved = [replace(one, start=start) if one == part else one for one in parts]
    assert not fits(moved)
    assert not accepted(moved)


@given(grids(), st.data())
def test_a_grid_and_one_part_more(parts: list[Part], data: st.DataObject) -> None:
    extra = data.draw(boxes_in(parts[0].full))
    assume(np.prod(extra.shape) and extra not in parts)
    assert not fits([*parts, extra])
    assert not accepted([*parts, extra])


@given(grids(), st.data())
def test_a_grid_with_another_part_in_place_of_one(parts: list[Part], data: st.DataObject) -> None:
    # A gap hides behind an overlap where both have as many elements.
    chosen = data.draw(st.sampled_from(parts))
    other = data.draw(boxes_in(chosen.full))
    swapped = [other if part == chosen else part for part in parts]
    event(f"still whole: {fits(swapped)}")
    assert accepted(swapped) == fits(swapped)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda full: st.lists(boxes_in(full), min_size=1, max_size=6)
    )
)
def test_any_boxes(parts: list[Part]) -> None:
    assert accepted(parts) == fits(parts)


def test_what_is_no_grid_may_be_whole() -> None:
    pinwheel = [
        Part((1, 2), (0, 0), (3, 3)),
        Part((2, 1), (0, 2), (3, 3)),
        Part((1, 2), (2, 1), (3, 3)),
        Part((2, 1), (1, 0), (3, 3)),
        Part((1, 1), (1, 1), (3, 3)),
    ]
    assert fits(pinwheel)
    assert accepted(pinwheel)
    grown = [*pinwheel[:-1], Part((1, 2), (1, 1), (3, 3))]
    assert not accepted(grown)


@pytest.mark.parametrize(
    "other",
    [
        Part((2,), (2,), (5,)),
        Part((2,), (2,), (4,), dtype="I32"),
        Part((2, 1), (2, 0), (4, 1)),
    ],
    ids=["shape", "dtype", "dimensions"],
)
def test_shards_that_disagree_about_the_tensor(other: Part) -> None:
    with pytest.raises(InvalidHeader, match="in one shard and"):
        whole_tensors({0: [Part((2,), (0,), (4,))], 1: [other]})


def test_tensors_are_told_apart_by_name() -> None:
    parts = [Part((2,), (0,), (2,)), Part((2,), (0,), (2,), "v"), Part((), (), (), "s", "BF16")]
    assert whole_tensors({3: parts[:2], 1: parts[1:]}) == [
        Whole("w", "F32", (2,)),
        Whole("v", "F32", (2,)),
        Whole("s", "BF16", ()),
    ]
    assert whole_tensors({0: [], 1: []}) == []


@pytest.mark.timeout(20)
def test_as_many_ranks_as_there_may_be() -> None:
    # In two dimensions, as FSDP over tensor parallelism does. Pair by pair it takes minutes.
    side = int(MAX_SHARDS**0.5)
    parts = grid_of((side * 2, side * 3), [range(2, side * 2, 2), range(3, side * 3, 3)])
    assert len(parts) == MAX_SHARDS
    shards = {i: [replace(part, name=f"w{k}") for k in range(20)] for i, part in enumerate(parts)}
    assert len(whole_tensors(shards)) == 20


@pytest.mark.parametrize(("index", "count"), [(0, 0), (0, -1), (2, 2), (-1, 2), (0, 4097)])
def test_numbers_that_no_shard_has(index: int, count: int) -> None:
    with pytest.raises(InvalidArgument):
        check_shard(index, count)


@pytest.mark.parametrize(
    ("count", "there", "said"),
    [
        (4, [0, 1, 3], "shard 2 of 4"),
        (4, [2], "shards 0, 1, 3 of 4"),
        (4096, [1], "shards 0, 2, 3, 4, 5, 6, 7, 8, … of 4096"),
    ],
)
def test_who_is_missing(count: int, there: list[int], said: str) -> None:
    assert missing(count, there) == said
