"""Hostile safetensors headers: each is refused with its reason, and none does worse than that."""

from __future__ import annotations

import json
import pickle
import struct
from typing import Any

import pytest
import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weightsync import layout
from weightsync.layout import LayoutError

# safetensors types neither its arguments nor its result.
deserialize: Any = safetensors.deserialize


def header(obj: Any) -> bytes:
    text = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype: Any = "U8", shape: Any = (1,), offsets: Any = (0, 1)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


OK = b'"dtype":"U8","shape":[1],"data_offsets":[0,1]'
HOSTILE: list[tuple[Any, str]] = [
    (b"", "header_not_json"),
    (b"[]", "header_not_json"),
    (b"1", "header_not_json"),
    (b" {}", "header_not_json"),
    (b"\xef\xbb\xbf{}", "header_not_json"),
    (b'{"a', "header_not_json"),
    (b'{"a":', "header_not_json"),
    (b'{"a" {%s}}' % OK, "header_not_json"),
    (b'{"a":{%s},}' % OK, "header_not_json"),
    (b'{"a":{%s}' % OK, "header_not_json"),
    (b'{"a":{%s}}\x00' % OK, "header_not_json"),
    (b'{"a":{%s}}{}' % OK, "header_not_json"),
    (b"{a:1}", "header_not_json"),
    (b'{"\x01":{%s}}' % OK, "header_not_json"),
    (b'{"\xff":{%s}}' % OK, "header_not_json"),
    (b'{"\xed\xa0\x80":{%s}}' % OK, "header_not_json"),
    (b'{"\\ud800":{%s}}' % OK, "bad_name"),
    (b'{"a":{%s},"a":{%s}}' % (OK, OK), "duplicate_name"),
    (b'{"a":{%s},"\\u0061":{%s}}' % (OK, OK), "duplicate_name"),
    (b'{"a":{"dtype":"U8",%s}}' % OK, "duplicate_name"),
    (b'{"__metadata__":{"k":"1","k":"2"}}', "duplicate_name"),
    (b'{"__metadata__":{},"__metadata__":{}}', "duplicate_name"),
    (b'{"__metadata__":null,"__metadata__":{}}', "duplicate_name"),
    (b'{"a":{%s,"x":1}}' % OK, "header_not_json"),
    (b'{"a":{%s,"x":{}}}' % OK, "header_not_json"),
    (b'{"a":["U8",[1],[0,1]]}', "header_not_json"),
    (b'{"a":null}', "header_not_json"),
    (b'{"a":{}}', "header_not_json"),
    (b'{"a":' + b"[" * 100_000, "header_not_json"),
    (b'{"a":{"shape":' + b"[" * 50_000 + b"}", "header_not_json"),
    (b'{"a":' * 100_000, "header_not_json"),
    (b'{"a":{"shape":[' + b"1," * 100_000 + b"1]}}", "header_not_json"),
    (b'{"__metadata__":' + b"[" * 100_000, "bad_metadata"),
    (b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(70_000)), "bad_metadata"),
    ({"__metadata__": {"k": 1}}, "bad_metadata"),
    ({"__metadata__": {"k": {"x": "y"}}}, "bad_metadata"),
    ({"__metadata__": {"k": "\ud800"}}, "bad_metadata"),
    ({"__metadata__": {"\udc00": "v"}}, "bad_metadata"),
    ({"__metadata__": "text"}, "bad_metadata"),
    ({"a": entry("U9")}, "unknown_dtype"),
    ({"a": entry(None)}, "unknown_dtype"),
    ({"a": entry(["U8"])}, "unknown_dtype"),
    ({"a": entry(shape=None)}, "bad_shape"),
    ({"a": entry(shape="1")}, "bad_shape"),
    ({"a": entry(shape=[-1])}, "bad_shape"),
    ({"a": entry(shape=[1.0])}, "bad_shape"),
    ({"a": entry(shape=[True])}, "bad_shape"),
    ({"a": entry(shape=[[1]])}, "bad_shape"),
    ({"a": entry(shape=[float("nan")])}, "bad_shape"),
    ({"a": entry(shape=[2**63, 0], offsets=[0, 0])}, "bad_shape"),
    ({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}, "bad_shape"),
    ({"a": entry(shape=[2**32, 2**32, 0], offsets=[0, 0])}, "bad_shape"),
    ({"a": entry("F4", [3], [0, 2])}, "bad_shape"),
    (b'{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,1]}}' % (b"9" * 5000), "bad_shape"),
    (b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', "bad_shape"),
    (b'{"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,0]}}', "bad_shape"),
    (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', "bad_offsets"),
    ({"a": entry(offsets=None)}, "bad_offsets"),
    ({"a": entry(offsets=[0])}, "bad_offsets"),
    ({"a": entry(offsets=[0, 1, 2])}, "bad_offsets"),
    ({"a": entry(offsets=[0, 1.0])}, "bad_offsets"),
    ({"a": entry(offsets=[False, True])}, "bad_offsets"),
    ({"a": entry(offsets=[-1, 0])}, "bad_offsets"),
    ({"a": entry(offsets=[1, 0])}, "bad_offsets"),
    ({"a": entry(offsets=[2**64, 2**64 + 1])}, "bad_offsets"),
    ({"a": entry(offsets=[0, 2])}, "size_mismatch"),
    ({"a": entry("F32")}, "size_mismatch"),
    ({"a": entry(offsets=[1, 2])}, "gap"),
    ({"a": entry(), "b": entry(offsets=[2, 3])}, "gap"),
    ({"a": entry(), "b": entry()}, "overlapping_offsets"),
    ({"a": entry(shape=[2], offsets=[0, 2]), "b": entry(offsets=[1, 2])}, "overlapping_offsets"),
    (
        {"a": entry(shape=[2], offsets=[0, 2]), "b": entry("F32", [0], [1, 1])},
        "overlapping_offsets",
    ),
]


@pytest.mark.parametrize(
    ("obj", "reason"), HOSTILE, ids=[f"{i}-{reason}" for i, (_, reason) in enumerate(HOSTILE)]
)
def test_hostile_headers_are_refused_with_their_reason(obj: Any, reason: str) -> None:
    with pytest.raises(LayoutError) as caught:
        layout.parse(header(obj))
    error = caught.value
    assert error.reason == reason
    assert str(error).isprintable()
    assert len(str(error)) < 500
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_message_names_the_tensor() -> None:
    with pytest.raises(LayoutError, match=r"tensor 'model\.norm': 2 bytes of data, but U8 \[1\]"):
        layout.parse(header({"model.norm": entry(offsets=[0, 2])}))


shapes = st.lists(st.integers(0, 12), max_size=2)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**65) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
numbers = st.integers(-1, 5) | st.sampled_from([1.0, True, None, 2**63, 2**64])
lists_of_numbers = st.lists(numbers, max_size=3) | st.tuples(st.just(0), st.integers(0, 8)).map(
    list
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "U8", "F32", "F4", "nope"]) | json_values,
        "shape": lists_of_numbers | json_values,
        "data_offsets": lists_of_numbers | json_values,
    },
    optional={"x": json_values},
)
headers = st.dictionaries(
    st.sampled_from(["a", "b", "c", "__metadata__", "\ud800"]),
    entries | st.dictionaries(st.text(max_size=3), st.text(max_size=3)) | json_values,
    max_size=3,
)


specs = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    st.tuples(st.sampled_from(["U8", "F32"]), shapes),
    max_size=4,
)
TOKENS = [
    *'{}[]":, \t\n0123456789-\\é',
    "null",
    "true",
    "1.0",
    "1e0",
    "-0",
    r"\u0061",
    r"\/",
    "U8",
]


def agree_with_safetensors(data: bytes) -> bool:
    """Whether `data` parses; fails if it does, but safetensors does not accept it."""
    try:
        plan = layout.parse(data)
    except LayoutError:
        return False
    if plan.data_bytes < 1 << 20:
        whole = plan.header + bytes(plan.data_bytes)
        found = {name: (i["dtype"], tuple(i["shape"])) for name, i in deserialize(whole)}
        assert found == {e.name: (e.dtype, e.shape) for e in plan.tensors}
        assert layout.parse(whole, len(whole)) == plan
    return True


@settings(deadline=None)
@given(headers.map(header) | st.binary(max_size=60) | st.binary(max_size=60).map(header))
@example(header({"a": entry(), "b": entry("U8", [0], [0, 0])}))
def test_nothing_but_layout_errors_comes_of_any_header(data: bytes) -> None:
    agree_with_safetensors(data)


@settings(deadline=None, max_examples=200)
@given(specs, st.data())
def test_parse_is_never_more_lenient_than_safetensors(
    found: dict[str, tuple[str, list[int]]], data: st.DataObject
) -> None:
    plan = layout.build((name, dtype, shape) for name, (dtype, shape) in found.items())
    assert agree_with_safetensors(plan.header)
    text = plan.header[8:].decode().rstrip()
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(1, len(text)))
        token = data.draw(st.sampled_from(TOKENS))
        text = text[:at] + token + text[at + data.draw(st.integers(0, len(token))) :]
    agree_with_safetensors(header(text.encode()))
