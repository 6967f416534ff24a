"""Digests: the written rule, the same result for every way the bytes come, and what they notice."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy
import pytest
import xxhash
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from weightsync import layout
from weightsync.digests import StreamDigester, check_digest, tensor_digest, version_digest
from weightsync.layout import DTYPE_BITS, Layout

# Typed loosely: numpy declares its arrays as buffers for Python 3.12 and newer alone.
np: Any = numpy

NO_BYTES = "xxh3-64:2d06800538d394c2"  # the published XXH3-64 of the empty input
NO_TENSORS = "xxh3-128:99aa06d3014798d86001c324468d497f"  # the same of XXH3-128

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
whole_bytes = sorted(dtype for dtype, bits in DTYPE_BITS.items() if bits % 8 == 0)
specs = st.dictionaries(names, st.tuples(st.sampled_from(whole_bytes), shapes), max_size=6)
Specs = dict[str, tuple[str, tuple[int, ...]]]


def filled(plan: Layout, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(plan.data_bytes)


def planned(found: Specs) -> Layout:
    return layout.build([(name, dtype, shape) for name, (dtype, shape) in found.items()])


def entries(plan: Layout, data: bytes) -> list[tuple[str, str, tuple[int, ...], str]]:
    return [(e.name, e.dtype, e.shape, tensor_digest(data[e.begin : e.end])) for e in plan.tensors]


def digested(plan: Layout, data: bytes) -> StreamDigester:
    digester = StreamDigester(plan)
    digester.update(data)
    return digester


# --- the written rule --------------------------------------------------------------------------


def test_the_published_values_of_no_bytes() -> None:
    assert tensor_digest(b"") == NO_BYTES
    assert version_digest([]) == NO_TENSORS


def test_a_version_digest_recomputed_from_the_written_rule() -> None:
    lines = (
        r'["\" \\ \/\b\t\n\f\r\u007f\u0000","U8",[1],"xxh3-64:0000000000000000"]'.replace(
            r"\/", "/"
        ),
        r'["a","BF16",[2,3],"xxh3-64:2d06800538d394c2"]',
        r'["a b","F32",[],"xxh3-64:ffffffffffffffff"]',
        r'["\u00e9\uffff","F8_E4M3",[0],"xxh3-64:0123456789abcdef"]',
        r'["\ud83d\ude00","I64",[1],"xxh3-64:0123456789abcdef"]',
    )
    parsed = [tuple(json.loads(line)) for line in lines]
    text = "".join(line + "\n" for line in lines).encode("ascii")
    expected = f"xxh3-128:{xxhash.xxh3_128_hexdigest(text)}"
    assert version_digest(parsed) == version_digest(reversed(parsed)) == expected
    assert version_digest(parsed[1:2]) == "xxh3-128:21494b3ea2cd0b4a7d4efc2b5ff909e6"


def test_names_are_sorted_by_code_point_and_not_by_utf16_unit() -> None:
    # U+FF5E sorts before U+1F600 by code point, and after its first UTF-16 unit, U+D83D.
    text = "".join(f'["{n}","U8",[0],"{NO_BYTES}"]\n' for n in (r"\uff5e", r"\ud83d\ude00"))
    expected = f"xxh3-128:{xxhash.xxh3_128_hexdigest(text.encode())}"
    assert version_digest((n, "U8", (0,), NO_BYTES) for n in ("😀", "\uff5e")) == expected


def test_a_tensor_digest_takes_any_contiguous_buffer() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    expected = tensor_digest(array.tobytes())
    for same in (array, memoryview(array), bytearray(array.tobytes()), array.view(np.uint8)):
        assert tensor_digest(same) == expected
    assert tensor_digest(np.empty((0, 3))) == NO_BYTES
    digester = StreamDigester(layout.build([("a", "I16", (24,))]))
    for bad in (array[:, 1:], array.T, np.asfortranarray(array)):
        for digest in (tensor_digest, digester.update):
            with pytest.raises(ValueError, match="not C-contiguous"):
                digest(bad)
    assert digester.position == 0


# --- one pass over a stream --------------------------------------------------------------------


@settings(deadline=None)
@given(specs, st.data())
def test_any_split_of_the_stream_gives_the_same_digests(found: Specs, data: st.DataObject) -> None:
    plan = planned(found)
    whole = filled(plan)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    digester = StreamDigester(plan)
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        assert digester.position == begin
        digester.update(memoryview(whole)[begin:end])
    expected = entries(plan, whole)
    assert list(digester.tensor_digests().items()) == [(e[0], e[3]) for e in expected]
    assert digester.version_digest() == version_digest(expected)


def test_single_bytes_and_wide_items_give_the_same_digests() -> None:
    plan = layout.build([("a", "F64", (3,)), ("none", "F32", (0,)), ("b", "U8", (8,))])
    whole = filled(plan)
    expected = digested(plan, whole).tensor_digests()
    by_byte = StreamDigester(plan)
    for i in range(len(whole)):
        by_byte.update(whole[i : i + 1])
        by_byte.update(b"")
    assert by_byte.tensor_digests() == expected
    wide = StreamDigester(plan)
    wide.update(np.frombuffer(whole, np.uint64).reshape(2, 2))
    wide.update(np.empty((0, 5)))
    assert wide.tensor_digests() == expected


def test_no_buffer_is_held_after_an_update() -> None:
    plan = layout.build([("a", "U8", (3,)), ("b", "U8", (3,))])
    buffer = bytearray(b"abcd")
    digester = StreamDigester(plan)
    digester.update(buffer)
    buffer.clear()  # BufferError while a view of it is alive
    with pytest.raises(ValueError, match="only 2 left"):
        digester.update(bytearray(3))


def test_too_few_and_too_many_bytes_are_refused() -> None:
    plan = layout.build([("a", "U8", (4,)), ("empty", "U8", (0,))])
    digester = StreamDigester(plan)
    digester.update(b"abc")
    for ask in (digester.tensor_digests, digester.version_digest):
        with pytest.raises(ValueError, match="1 of 4 bytes have not come"):
            ask()
    with pytest.raises(ValueError, match="2 bytes came, but the layout has only 1 left"):
        digester.update(b"de")
    digester.update(b"d")  # what was refused did not count
    assert digester.tensor_digests() == {"a": tensor_digest(b"abcd"), "empty": NO_BYTES}
    with pytest.raises(ValueError, match="only 0 left"):
        digester.update(b"e")


def test_a_layout_without_bytes_is_complete_at_once() -> None:
    assert StreamDigester(layout.build([])).version_digest() == NO_TENSORS
    plan = layout.build([("a", "U8", (0,)), ("b", "F32", (3, 0))])
    assert StreamDigester(plan).tensor_digests() == {"a": NO_BYTES, "b": NO_BYTES}


# --- what a digest notices ---------------------------------------------------------------------


@settings(deadline=None)
@given(specs, st.randoms(use_true_random=False))
def test_the_order_of_the_tensors_does_not_matter(found: Specs, rng: random.Random) -> None:
    plan = planned(found)
    listed = entries(plan, filled(plan))
    expected = version_digest(listed)
    rng.shuffle(listed)
    assert version_digest(listed) == expected


@settings(deadline=None)
@given(specs, st.data())
def test_any_flipped_bit_changes_its_tensor_and_the_version(
    found: Specs, data: st.DataObject
) -> None:
    plan = planned(found)
    assume(plan.data_bytes)
    whole = filled(plan)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    before, after = digested(plan, whole), digested(plan, bytes(damaged))
    changed = {
        name
        for name, digest in before.tensor_digests().items()
        if after.tensor_digests()[name] != digest
    }
    assert changed == {e.name for e in plan.tensors if e.begin <= bit // 8 < e.end}
    assert before.version_digest() != after.version_digest()


@given(names, names, st.sampled_from(whole_bytes), st.sampled_from(whole_bytes), shapes, shapes)
def test_name_dtype_and_shape_are_part_of_the_digest(
    name: str, name2: str, dtype: str, dtype2: str, shape: tuple[int, ...], shape2: tuple[int, ...]
) -> None:
    one, two = (name, dtype, shape, NO_BYTES), (name2, dtype2, shape2, NO_BYTES)
    assert (version_digest([one]) == version_digest([two])) == (one == two)


# --- what is refused ---------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_own_digests_are_valid(data: bytes) -> None:
    digest = tensor_digest(data)
    assert check_digest(digest) is digest
    assert check_digest(version_digest([("a", "U8", (len(data),), digest)]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2d06800538d394c2",
        "xxh3-64:",
        "xxh3-64:2D06800538D394C2",
        "xxh3-64:2d06800538d394c",
        "xxh3-64:2d06800538d394c2\n",
        "xxh3-64:99aa06d3014798d86001c324468d497f",
        "xxh3-128:2d06800538d394c2",
        " xxh3-64:2d06800538d394c2",
        "xxh64:2d06800538d394c2",
        "xxh3-64:\uff12d06800538d394c2",
        None,
        b"xxh3-64:2d06800538d394c2",
    ],
)
def test_what_is_no_digest_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="is not a digest: use 'xxh3-64:' and 16") as caught:
        check_digest(text)
    assert str(caught.value).isprintable()


def test_entries_that_make_no_version_are_refused() -> None:
    good = ("a", "U8", (0,), NO_BYTES)
    with pytest.raises(ValueError, match="tensor 'a' appears twice"):
        version_digest([good, ("b", "U8", (0,), NO_BYTES), good])
    with pytest.raises(ValueError, match="is not a digest"):
        version_digest([("a", "U8", (0,), "")])
    with pytest.raises(ValueError, match="has the digest of a version"):
        version_digest([("a", "U8", (0,), NO_TENSORS)])
    with pytest.raises(TypeError):
        version_digest([("a", "U8", (1.5,), NO_BYTES)])  # type: ignore[list-item]  # the point
