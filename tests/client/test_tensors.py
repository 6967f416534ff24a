"""State dict -> safetensors stream: what is sent, in which pieces, and its digest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sync_client.tensor_memory import memory_view
from sync_client.tensors import (
    SAFETENSORS_DTYPES,
    TORCH_DTYPES,
    StateDictSink,
    StateDictSource,
    UnsupportedTensor,
    state_dict_digest,
    tensors_from_buffer,
)
from weightsync.layout import DTYPE_BITS, parse

# What safetensors.torch.load does not know although safetensors.torch.save writes it.
NOT_LOADABLE = {"F4", "F8_E8M0"}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
shapes = st.one_of(
    st.sampled_from([(), (0,), (0, 3), (3, 0), (1, 1, 1)]),
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
)


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random bytes, so that floats hold NaN payloads, infinities, -0.0 and denormals."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype is torch.bool else 256
    raw = torch.randint(0, high, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in row-major order, without our own code."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return plain.view(integers[plain.itemsize]).numpy().tobytes()


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert raw_bytes(found[name]) == raw_bytes(tensor), name


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name in draw(st.lists(names, unique=True, max_size=6)):
        dtype = TORCH_DTYPES[draw(st.sampled_from(sorted(TORCH_DTYPES)))]
        shape = draw(shapes)
        if dtype is TORCH_DTYPES.get("F4") and not shape:
            shape = (2,)
        tensor = random_tensor(dtype, shape, draw(st.integers(0, 99)))
        kind = draw(st.sampled_from(["plain", "transposed", "strided", "expanded", "tied", "grad"]))
        if kind == "transposed":
            tensor = tensor.movedim(0, -1) if tensor.ndim > 1 else tensor
        elif kind == "strided":
            tensor = tensor[1::2] if tensor.ndim else tensor
        elif kind == "expanded":
            tensor = tensor[:1].expand(3, *shape[1:]) if shape and shape[0] else tensor
        elif kind == "tied" and tensors:
            tensor = draw(st.sampled_from(list(tensors.values())))
        elif kind == "grad" and dtype.is_floating_point and dtype.itemsize > 1:
            tensor = torch.nn.Parameter(tensor)
        tensors[name] = tensor
    return tensors


@given(state_dicts(), st.integers(1, 400), st.data())
@settings(deadline=None, max_examples=150)
@example({}, 7, None)
def test_any_state_dict_passes_bit_for_bit_from_any_offset(
    tensors: dict[str, torch.Tensor], chunk_bytes: int, data: st.DataObject | None
) -> None:
    source = StateDictSource(tensors)
    pieces = list(source.chunks(chunk_bytes))
    stream = b"".join(pieces)
    assert all(1 <= len(piece) <= chunk_bytes for piece in pieces)
    assert len(stream) == source.layout.total_bytes
    assert b"".join(source.segments()) == stream

    offset = data.draw(st.integers(0, len(stream))) if data else 0
    assert b"".join(source.chunks(chunk_bytes, offset)) == stream[offset:]

    layout = parse(stream, len(stream))
    assert layout == source.layout
    sink = StateDictSink()
    sink.begin(layout)
    cut = data.draw(st.integers(0, layout.data_bytes)) if data else 0
    sink.write(stream[layout.data_offset :][:cut])
    assert sink.received == cut
    for piece in source.chunks(chunk_bytes, layout.data_offset + cut):
        sink.write(piece)
    found, digest = sink.finish()
    assert_same(found, tensors)
    assert digest == source.digest() == state_dict_digest(found)
    assert sink.tensor_digests() == source.tensor_digests()
    assert_same(tensors_from_buffer(bytearray(stream), layout), tensors)


@given(state_dicts())
@settings(deadline=None, max_examples=60)
def test_the_stream_opens_with_safetensors_itself(tensors: dict[str, torch.Tensor]) -> None:
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if SAFETENSORS_DTYPES[tensor.dtype] not in NOT_LOADABLE
    }
    stream = b"".join(StateDictSource(tensors, metadata={"step": "7"}).chunks())
    assert_same(safetensors.torch.load(stream), tensors)


@pytest.mark.parametrize("dtype", sorted(TORCH_DTYPES))
def test_every_dtype_round_trips_through_safetensors_files(dtype: str, tmp_path: Path) -> None:
    tensors = {"w": random_tensor(TORCH_DTYPES[dtype], (3, 4), 1)}
    path = tmp_path / "ours.safetensors"
    path.write_bytes(b"".join(StateDictSource(tensors).chunks()))
    assert_same(safetensors.torch.load_file(path), tensors)

    theirs = safetensors.torch.save(tensors)
    layout = parse(theirs, len(theirs))
    assert layout.tensors == StateDictSource(tensors).layout.tensors
    assert_same(tensors_from_buffer(bytearray(theirs), layout), tensors)


def test_the_table_holds_every_dtype_that_torch_and_safetensors_share() -> None:
    saved = set()
    for dtype in {d for d in vars(torch).values() if isinstance(d, torch.dtype)}:
        try:
            safetensors.torch.save({"w": torch.zeros(8, dtype=torch.uint8).view(dtype)[:1]})
        except (KeyError, RuntimeError):
            continue
        saved.add(dtype)
    assert saved == set(SAFETENSORS_DTYPES)
    assert set(TORCH_DTYPES) <= set(DTYPE_BITS)


def test_large_tensors_are_views_of_their_own_memory() -> None:
    weight = torch.zeros((1 << 20) + (1 << 16), dtype=torch.uint8)
    small = torch.zeros(3, dtype=torch.uint8)
    pieces = list(StateDictSource({"w": weight, "x": small}).chunks(1 << 18))
    weight.fill_(7)
    data = pieces[1:]  # the header travels alone, since the tensor's pieces are not gathered
    assert [len(piece) for piece in data] == [1 << 18] * 4 + [1 << 16, 3]
    assert all(set(piece) == {7} for piece in data[:-1])


def test_ten_thousand_small_tensors_share_messages() -> None:
    tensors = {f"layers.{i}.bias": torch.full((16,), float(i)) for i in range(10_000)}
    source = StateDictSource(tensors)
    pieces = list(source.chunks(1 << 16))
    assert len(pieces) <= source.layout.total_bytes // (3 << 14) + 2
    assert max(map(len, pieces)) <= 1 << 16
    assert len(list(source.segments())) == 10_001


def test_views_outlive_the_tensors_and_a_swap_of_parameter_data() -> None:
    parameter = torch.nn.Parameter(torch.full((1 << 16,), 3.0))
    source = StateDictSource({"w": parameter})
    expected = raw_bytes(parameter)
    segments = source.segments(source.layout.data_offset)
    direct = memory_view(parameter)
    parameter.data = torch.full((1 << 16,), 9.0)
    view = next(segments)
    del source, segments, parameter
    assert bytes(view) == bytes(direct) == expected


def test_lazy_signs_are_resolved() -> None:
    values = torch.tensor([1 + 2j, -3 + 0j], dtype=torch.complex64)
    tensors = {"conj": values.conj(), "neg": values.conj().imag}
    assert tensors["conj"].is_conj()
    assert tensors["neg"].is_neg()
    stream = b"".join(StateDictSource(tensors).chunks())
    found = tensors_from_buffer(bytearray(stream), parse(stream))
    assert found["conj"].tolist() == [1 - 2j, -3 - 0j]
    assert raw_bytes(found["neg"]) == raw_bytes(torch.tensor([-2.0, -0.0]))


def test_the_digest_follows_every_part_and_nothing_else() -> None:
    base = {"a": torch.tensor([[1.0, -0.0]]), "b": torch.arange(3)}
    digest = state_dict_digest(base)
    assert digest.startswith("xxh3-128:")
    assert digest == state_dict_digest({"b": base["b"], "a": base["a"].t().contiguous().t()})
    assert digest == StateDictSource(base, threads=1, metadata={"x": "y"}).digest()
    different = [
        {**base, "a": torch.tensor([[1.0, 0.0]])},
        {**base, "a": base["a"].view(torch.int32)},
        {**base, "a": base["a"].reshape(2)},
        {"A": base["a"], "b": base["b"]},
        {"a": base["a"]},
        {**base, "c": torch.empty(0)},
    ]
    assert len({digest, *map(state_dict_digest, different)}) == len(different) + 1


def test_the_digest_does_not_depend_on_the_number_of_threads() -> None:
    tensors = {f"w{i}": random_tensor(torch.bfloat16, (3 << 20,), i) for i in range(5)}
    tensors["tied"] = tensors["w0"]
    assert (
        StateDictSource(tensors, threads=4).digest() == StateDictSource(tensors, threads=1).digest()
    )


def unsupported() -> dict[str, tuple[Any, Any, str]]:
    w = torch.zeros(2, 2)
    freed = torch.zeros(10)[3:]
    freed.untyped_storage().resize_(0)
    cases: dict[str, tuple[Any, Any, str]] = {
        "complex128": ("w", w.to(torch.complex128), "complex128"),
        "sparse": ("w", w.to_sparse(), "sparse_coo"),
        "meta": ("w", w.to("meta"), "meta"),
        "freed": ("w", freed, "freed"),
        "lazy": ("w", torch.nn.LazyLinear(3).weight, "lazy"),
        "number": ("w", 3.0, "not a torch.Tensor"),
        "none": ("w", None, "not a torch.Tensor"),
        "surrogate": ("w\ud800", w, "surrogate"),
        "reserved": ("__metadata__", w, "safetensors"),
        "integer name": (3, w, "int"),
    }
    packed = TORCH_DTYPES.get("F4")
    if packed:
        cases["packed scalar"] = ("w", torch.zeros((), dtype=torch.uint8).view(packed), "dimension")
    return cases


@pytest.mark.parametrize("case", sorted(unsupported()))
def test_what_cannot_travel_is_refused_with_its_name_and_dtype(case: str) -> None:
    name, value, words = unsupported()[case]
    with pytest.raises(UnsupportedTensor, match=words) as caught:
        StateDictSource({"fine": torch.zeros(1), name: value})
    assert caught.value.name == name
    assert repr(name) in str(caught.value)
    if isinstance(value, torch.Tensor):
        assert caught.value.dtype == str(value.dtype).removeprefix("torch.")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch announces the end of both kinds
def test_nested_and_quantized_tensors_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    jagged = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    quantized = torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)
    for value, words in [(nested, "nested"), (jagged, "nested"), (quantized, "quantized")]:
        with pytest.raises(UnsupportedTensor, match=words):
            StateDictSource({"w": value})


@pytest.mark.parametrize(("chunk_bytes", "offset"), [(0, 0), (1, -1), (1, 1 << 20)])
def test_impossible_cuts_are_refused(chunk_bytes: int, offset: int) -> None:
    with pytest.raises(ValueError, match=r"chunk_bytes|offset"):
        list(StateDictSource({"w": torch.zeros(2)}).chunks(chunk_bytes, offset))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sync_client, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_tensors_travel_both_ways() -> None:
    tensors = {"w": random_tensor(torch.bfloat16, (64, 33), 1), "t": torch.arange(6).view(2, 3).t()}
    source = StateDictSource({name: tensor.cuda() for name, tensor in tensors.items()})
    into = {name: torch.zeros_like(tensor, device="cuda") for name, tensor in tensors.items()}
    sink = StateDictSink(into)
    sink.begin(source.layout)
    for piece in source.chunks(100, source.layout.data_offset):
        sink.write(piece)
    _, digest = sink.finish()
    assert_same(into, tensors)
    assert digest == source.digest() == state_dict_digest(tensors) == state_dict_digest(into)
