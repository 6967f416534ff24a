"""What the header of a shard says of its slices: there and back, and from a hostile sender."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.state_dicts import names
from weightsync.layout import Layout, build, parse
from weightsync.slices import SLICES_KEY, Placement, Slice, SliceError, decode, encode


@dataclass(frozen=True)
class Cut:
    """Along one dimension: `size` elements from `start` on, of `full`."""

    start: int
    size: int
    full: int


cuts = st.builds(
    lambda start, size, rest: Cut(start, size, start + size + rest),
    st.integers(0, 2**60),
    st.integers(0, 5),
    st.integers(0, 2**60),
)
tensors = st.dictionaries(
    names, st.tuples(st.sampled_from(["F32", "BF16", "U8", "F4"]), st.lists(cuts, max_size=4))
)


def shape_of(dtype: str, boxes: list[Cut]) -> tuple[int, ...]:
    """What the shard holds; of F4 two elements fill a byte."""
    shape = tuple(cut.size for cut in boxes)
    return (*shape, 2) if dtype == "F4" else shape


@given(tensors)
@example({})
@example({"[[]]": ("U8", [Cut(2, 3, 9)]), '"{': ("U8", [])})
@example({"\U0001f4a9" * 40: ("U8", [Cut(2**62, 1, 2**63 - 1)] * 4)})
def test_what_is_encoded_is_decoded(given_tensors: dict[str, tuple[str, list[Cut]]]) -> None:
    specs, slices, expected = [], {}, {}
    for name, (dtype, boxes) in given_tensors.items():
        shape = shape_of(dtype, boxes)
        extra = [Cut(0, 2, 2)] if dtype == "F4" else []
        start = tuple(cut.start for cut in [*boxes, *extra])
        full = tuple(cut.full for cut in [*boxes, *extra])
        if full != shape:  # what has no entry is whole
            slices[name] = (full, start)
        specs.append((name, dtype, shape))
        expected[name] = Slice(name, dtype, shape, start, full)
    layout = parse(build(specs, encode(slices)).header)
    found = decode(layout)
    assert [part.name for part in found] == [entry.name for entry in layout.tensors]
    assert {part.name: part for part in found} == expected
    assert all(part.is_whole == (part.name not in slices) for part in found)


def shard(text: str) -> Layout:
    """A shard with two tensors and this for their slices."""
    return build([("a", "F32", (2, 3)), ("b", "U8", ())], {SLICES_KEY: text})


numbers = st.one_of(
    st.integers(-2, 9),
    st.sampled_from([2**63 - 1, 2**63, 2**64, -(2**70), 1.0, -0.0, 1e300, True, None, "1"]),
)
near = st.tuples(st.lists(numbers, max_size=3), st.lists(numbers, max_size=3)).map(list)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(["a", "b"]), near | anything) | anything
texts = st.text() | objects.map(json.dumps)


@given(texts)
@example("")
@example("null")
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example('{"a":[[' + "9" * 5000 + ",3],[0,0]]}")
@example('{"a":[[NaN,3],[0,0]]}')
@example('{"a":[[Infinity,3],[0,0]]}')
@example('{"\\ud800":[[2,3],[0,0]]}')
@example("\ufeff{}")
def test_a_hostile_text_is_refused_or_makes_sense(text: str) -> None:
    layout = shard(text)
    try:
        found = decode(layout)
    except SliceError:
        return
    assert [(p.name, p.dtype, p.shape) for p in found] == [
        (entry.name, entry.dtype, entry.shape) for entry in layout.tensors
    ]
    for part in found:
        assert len(part.start) == len(part.full) == len(part.shape)
        for start, size, full in zip(part.start, part.shape, part.full, strict=True):
            assert type(start) is type(full) is int
            assert 0 <= start <= start + size <= full < 2**63


@pytest.mark.parametrize(
    "value",
    [
        {"c": [[2, 3], [0, 0]]},
        {"a": None, "c": [[], []]},
        {"a": [[2, 3]]},
        {"a": [[2, 3], [0, 0], []]},
        {"a": [[2, 3], [0]]},
        {"a": [[2], [0]]},
        {"a": [[6, 1, 1], [0, 0, 0]]},
        {"a": [[2, 3], [1, 0]]},
        {"a": [[2, 3], [-1, 0]]},
        {"a": [[1, 3], [0, 0]]},
        {"a": [[2.0, 3], [0, 0]]},
        {"a": [[4, 3], [True, 0]]},
        {"a": [[4, "3"], [0, 0]]},
        {"a": [[2**63, 3], [0, 0]]},
        {"a": {"full": [2, 3], "start": [0, 0]}},
        {"a": "[[2,3],[0,0]]"},
        {"b": [[1], [0]]},
        [["a", [2, 3], [0, 0]]],
        "a",
        7,
    ],
    ids=json.dumps,
)
def test_what_is_no_slice(value: Any) -> None:
    with pytest.raises(SliceError):
        decode(shard(json.dumps(value)))


@pytest.mark.parametrize("piece", ["[],", '"ab",', "{},", "300,"])
def test_a_hostile_text_takes_no_memory(piece: str) -> None:
    layout = shard('{"a":[' + piece * 300_000 + "0]}")
    tracemalloc.start()
    try:
        with pytest.raises(SliceError):
            decode(layout)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_nothing_is_said_of_whole_tensors() -> None:
    none: dict[str, Placement] = {}
    assert encode(none) == {}
