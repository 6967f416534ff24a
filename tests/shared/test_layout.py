"""The safetensors layout against the real safetensors library, and hostile headers against it."""

from __future__ import annotations

import json
import struct
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightsync import layout
from weightsync.layout import DTYPE_BITS, Layout, LayoutError, TensorEntry, UnknownTensor

NUMPY = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "U16": np.uint16,
    "F16": np.float16,
    "I32": np.int32,
    "U32": np.uint32,
    "F32": np.float32,
    "C64": np.complex64,
    "F64": np.float64,
    "I64": np.int64,
    "U64": np.uint64,
}
# Every Unicode text may name a tensor: control characters, quotes, emoji, the empty text.
tensor_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: name != "__metadata__"
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
numpy_specs = st.dictionaries(tensor_names, st.tuples(st.sampled_from(sorted(NUMPY)), shapes))
metadatas = st.dictionaries(texts, texts, max_size=3)

# safetensors types neither its arguments nor its result.
deserialize: Any = safetensors.deserialize


def header(obj: Any) -> bytes:
    text = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
    return struct.pack("<Q", len(text)) + text


def entry(dtype: Any = "U8", shape: Any = (1,), offsets: Any = (0, 1)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def random_tensors(
    specs: dict[str, tuple[str, tuple[int, ...]]],
) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 2, size=shape).astype(NUMPY[dtype])
        for name, (dtype, shape) in specs.items()
    }


def stream(plan: Layout, tensors: dict[str, np.ndarray[Any, Any]]) -> bytes:
    return plan.header + b"".join(tensors[entry.name].tobytes() for entry in plan.tensors)


# --- against the real library ------------------------------------------------------------------


def test_the_dtype_table_is_that_of_safetensors() -> None:
    with pytest.raises(safetensors.SafetensorError, match="unknown variant") as caught:
        deserialize(header({"a": entry("NO")}))
    known = str(caught.value).split("expected one of ")[1].split(" at line")[0]
    assert sorted(known.replace("`", "").split(", ")) == sorted(DTYPE_BITS)
    for dtype, bits in DTYPE_BITS.items():
        plan = layout.build([("a", dtype, (8,))])
        assert plan.data_bytes == bits
        ((name, info),) = deserialize(plan.header + bytes(bits))
        assert (name, info["dtype"], info["shape"]) == ("a", dtype, [8])


@settings(deadline=None)
@given(numpy_specs, metadatas)
def test_what_is_built_opens_with_safetensors(
    specs: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    tensors = random_tensors(specs)
    plan = layout.build([(n, d, s) for n, (d, s) in specs.items()], metadata)
    data = stream(plan, tensors)
    assert len(data) == plan.total_bytes
    loaded = safetensors.numpy.load(data)
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
    assert layout.parse(data, len(data)) == plan


def test_a_built_file_opens_with_safe_open(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "层.權重": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(7, np.int64),
    }
    plan = layout.build(
        [("层.權重", "F32", (2, 3)), ("b", "I64", ())], {"format": "pt", "步": "120"}
    )
    path = tmp_path / "weights.safetensors"
    path.write_bytes(stream(plan, tensors))
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "步": "120"}
        assert file.offset_keys() == [entry.name for entry in plan.tensors]
        for name, array in tensors.items():
            assert np.array_equal(file.get_tensor(name), array)


@settings(deadline=None)
@given(numpy_specs, metadatas)
def test_files_of_safetensors_numpy_are_parsed(
    specs: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str]
) -> None:
    tensors = random_tensors(specs)
    data = safetensors.numpy.save(tensors, metadata or None)
    plan = layout.parse(data, len(data))
    assert plan.metadata == metadata
    assert {e.name: (e.dtype, e.shape) for e in plan.tensors} == specs
    for name, item in plan.by_name().items():
        begin = plan.data_offset + item.begin
        assert data[begin : begin + item.nbytes] == tensors[name].tobytes()


def test_a_file_of_safetensors_torch_is_parsed(tmp_path: Path) -> None:
    tensors = {
        "bf16": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
        "f8": torch.arange(5, dtype=torch.float32).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 7, dtype=torch.float16),
        "mask": torch.tensor([True, False]),
    }
    path = tmp_path / "torch.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    data = path.read_bytes()
    plan = layout.parse(memoryview(data), len(data))
    found = {e.name: (e.dtype, e.shape) for e in plan.tensors}
    assert found == {
        "bf16": ("BF16", (2, 3)),
        "f8": ("F8_E4M3", (5,)),
        "scalar": ("F64", ()),
        "empty": ("F16", (0, 7)),
        "mask": ("BOOL", (2,)),
    }
    item = plan.by_name()["bf16"]
    raw = bytearray(data[plan.data_offset + item.begin : plan.data_offset + item.end])
    assert torch.equal(torch.frombuffer(raw, dtype=torch.bfloat16).reshape(2, 3), tensors["bf16"])


# --- build and select --------------------------------------------------------------------------


@given(st.dictionaries(tensor_names, st.tuples(st.sampled_from(sorted(DTYPE_BITS)), shapes)))
def test_built_tensors_are_aligned_sorted_and_contiguous(
    specs: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    whole = [(n, d, (*s, 4)) for n, (d, s) in specs.items()]  # 4: F4 and F6 fill whole bytes
    plan = layout.build(whole)
    assert plan == layout.build(reversed(whole))
    assert plan.data_offset % layout.DATA_ALIGNMENT == 0
    order = [(-DTYPE_BITS[e.dtype], e.name) for e in plan.tensors]
    assert order == sorted(order)
    position = 0
    for item in plan.tensors:
        assert item.begin == position
        assert item.begin % max(1, DTYPE_BITS[item.dtype] // 8) == 0
        position = item.end
    assert position == plan.data_bytes == plan.total_bytes - len(plan.header)


@settings(deadline=None)
@given(numpy_specs, st.data())
def test_a_selection_is_a_stream_of_just_these_tensors(
    specs: dict[str, tuple[str, tuple[int, ...]]], data: st.DataObject
) -> None:
    tensors = random_tensors(specs)
    plan = layout.build([(n, d, s) for n, (d, s) in specs.items()], {"k": "v"})
    whole = stream(plan, tensors)[plan.data_offset :]
    names = data.draw(st.lists(st.sampled_from(sorted(specs))) if specs else st.just([]))
    part, ranges = plan.select(iter(names))
    assert all(begin < end for begin, end in ranges)
    assert all(a[1] < b[0] for a, b in pairwise(ranges)), "not merged"
    sent = part.header + b"".join(whole[begin:end] for begin, end in ranges)
    assert layout.parse(sent, len(sent)) == part
    assert part.metadata == {"k": "v"}
    loaded = safetensors.numpy.load(sent)
    assert loaded.keys() == set(names)
    for name in names:
        assert loaded[name].tobytes() == tensors[name].tobytes()


def test_touching_ranges_are_merged_and_empty_tensors_have_none() -> None:
    plan = layout.build([(n, "U8", (s,)) for n, s in zip("abcde", (2, 0, 3, 4, 5), strict=True)])
    part, ranges = plan.select(["b", "a", "c", "e"])
    assert ranges == [(0, 5), (9, 14)]
    assert part.tensors == (
        TensorEntry("a", "U8", (2,), 0, 2),
        TensorEntry("b", "U8", (0,), 2, 2),
        TensorEntry("c", "U8", (3,), 2, 5),
        TensorEntry("e", "U8", (5,), 5, 10),
    )
    assert plan.select([])[1] == []
    assert plan.select(["b"])[1] == []


def test_an_unknown_tensor_is_named() -> None:
    plan = layout.build([("a", "U8", (1,))])
    with pytest.raises(UnknownTensor, match="there is no tensor 'lm_head'") as caught:
        plan.select(["a", "lm_head"])
    assert isinstance(caught.value, KeyError)
    assert caught.value.reason == "unknown_tensor"


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        ([("__metadata__", "U8", (1,))], "bad_name"),
        ([("a\ud800", "U8", (1,))], "bad_name"),
        ([(1, "U8", (1,))], "bad_name"),
        ([("a", "u8", (1,))], "unknown_dtype"),
        ([("a", torch.float32, (1,))], "unknown_dtype"),
        ([("a", "U8", (1,)), ("a", "F32", (1,))], "duplicate_name"),
        ([("a", "U8", (-1,))], "bad_shape"),
        ([("a", "U8", (1.0,))], "bad_shape"),
        ([("a", "U8", (True,))], "bad_shape"),
        ([("a", "F4", (3,))], "bad_shape"),
        ([("a", "U8", (2**62, 2))], "bad_shape"),
        ([("a", "U8", (2**62, 2**62, 0))], "bad_shape"),
    ],
)
def test_what_build_refuses(specs: list[Any], reason: str) -> None:
    with pytest.raises(LayoutError) as caught:
        layout.build(specs)
    assert caught.value.reason == reason


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}, {"a\udc00": ""}])
def test_metadata_that_build_refuses(metadata: Any) -> None:
    with pytest.raises(LayoutError) as caught:
        layout.build([], metadata)
    assert caught.value.reason == "bad_metadata"


# --- the length prefix and the length of the stream --------------------------------------------


def test_the_prefix_is_checked_before_anything_is_read() -> None:
    assert layout.header_size(struct.pack("<Q", 100)) == 108
    assert layout.header_size(struct.pack("<Q", 100), 108) == 108
    for prefix, total, limit, reason in [
        (b"", None, 1000, "header_truncated"),
        (b"\x01" * 7, None, 1000, "header_truncated"),
        (struct.pack("<Q", 100), 107, 1000, "header_truncated"),
        (struct.pack("<Q", 1001), None, 1000, "header_too_large"),
        (b"\xff" * 8, None, layout.MAX_HEADER_BYTES, "header_too_large"),
    ]:
        with pytest.raises(LayoutError) as caught:
            layout.header_size(prefix, total, limit)
        assert caught.value.reason == reason


def test_the_stream_has_to_be_as_long_as_the_tensors() -> None:
    data = header({"a": entry(shape=[3], offsets=[0, 3])})
    assert layout.parse(data, len(data) + 3).data_bytes == 3
    assert layout.parse(data).data_bytes == 3
    for total in (len(data), len(data) + 2, len(data) + 4):
        with pytest.raises(LayoutError, match="but the stream at") as caught:
            layout.parse(data, total)
        assert caught.value.reason == "size_mismatch"
    for cut in (0, 5, 8, len(data) - 1):
        with pytest.raises(LayoutError) as caught:
            layout.parse(data[:cut])
        assert caught.value.reason == "header_truncated"
    with pytest.raises(LayoutError) as caught:
        layout.parse(data, max_header_bytes=10)
    assert caught.value.reason == "header_too_large"


def test_what_other_writers_write_is_accepted() -> None:
    pretty = json.dumps({"a": entry(), "__metadata__": {"k": "v"}}, indent=2).encode() + b"\n  "
    plan = layout.parse(header(pretty) + b"\0", len(pretty) + 9)
    assert plan.tensors == (TensorEntry("a", "U8", (1,), 0, 1),)
    assert plan.metadata == {"k": "v"}
    assert layout.parse(header(b'{"__metadata__":null}')).metadata == {}
    assert layout.parse(header(b"{}")).tensors == ()


def test_empty_tensors_keep_the_order_of_the_header() -> None:
    empty = entry("F32", [0], [1, 1])
    plan = layout.parse(header({"z": empty, "b": entry(offsets=[1, 2]), "a": entry(), "y": empty}))
    assert [item.name for item in plan.tensors] == ["a", "z", "y", "b"]


def test_ten_thousand_tensors_take_a_fraction_of_a_second() -> None:
    specs = [(f"model.layers.{i}.mlp.down_proj.weight", "BF16", (64, 64)) for i in range(10_000)]
    plan = layout.build(specs)
    spent = []
    for _ in range(3):
        start = time.process_time()
        again = layout.parse(plan.header, plan.total_bytes)
        spent.append(time.process_time() - start)
    assert again == plan
    # 0.08 s on a calm machine; under coverage or beside other tests it may be three times that.
    # A reader that is quadratic in the header takes seconds.
    assert min(spent) < 0.6, f"{min(spent):.3f} s of processor time"


def test_a_header_over_the_limit_is_not_built() -> None:
    with pytest.raises(LayoutError, match="the header would have 67108") as caught:
        layout.build([("a" * layout.MAX_HEADER_BYTES, "U8", ())])
    assert caught.value.reason == "header_too_large"
