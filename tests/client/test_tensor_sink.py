"""safetensors stream -> the caller's tensors: what fits, where it is written, what is refused."""

from __future__ import annotations

import mmap
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from sync_client.tensors import (
    IntoMismatch,
    StateDictSink,
    StateDictSource,
    TruncatedStream,
    UnsupportedTensor,
    state_dict_digest,
    tensors_from_buffer,
)
from weightsync.layout import build, parse


def pull(
    version: Mapping[str, torch.Tensor],
    into: Mapping[str, torch.Tensor],
    names: list[str] | None = None,
) -> tuple[dict[str, torch.Tensor], str]:
    source = StateDictSource(version)
    sink = StateDictSink(into, names)
    sink.begin(source.layout)
    for piece in source.chunks(11, source.layout.data_offset):
        sink.write(piece)
    return sink.finish()


def some_version() -> dict[str, torch.Tensor]:
    return {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.tensor([True, False]),
        "c": torch.tensor(7),
    }


def test_the_tensors_of_into_are_written_where_they_are() -> None:
    version = some_version()
    into = {name: torch.zeros_like(tensor) for name, tensor in reversed(version.items())}
    places = {name: tensor.data_ptr() for name, tensor in into.items()}
    found, digest = pull(version, into)
    assert digest == state_dict_digest(version) == state_dict_digest(into)
    for name, tensor in into.items():
        assert found[name] is tensor
        assert tensor.data_ptr() == places[name]
        assert torch.equal(tensor, version[name])


def test_nan_payloads_and_signed_zeros_survive_staging() -> None:
    bits = torch.tensor([[0x7FA00001, -0x80000000, 0x7F800001], [-1, 1, 0]], dtype=torch.int32)
    into = torch.zeros(3, 2).t()
    pull({"w": bits.view(torch.float32)}, {"w": into})
    assert torch.equal(into.view(torch.int32), bits)


@pytest.mark.parametrize("transposed", [False, True])
def test_parameters_and_inference_tensors_can_be_written(transposed: bool) -> None:
    def turned(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.t() if transposed else tensor

    with torch.inference_mode():
        frozen = turned(torch.zeros(2, 2))
    parameter = torch.nn.Parameter(turned(torch.zeros(2, 2)))
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    pull({"p": values, "f": values}, {"p": parameter, "f": frozen})
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert torch.equal(parameter.detach(), values)
    assert torch.equal(frozen, values)


def test_autograd_notices_that_a_saved_weight_was_overwritten() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    loss = (weight * weight).sum()
    pull({"w": torch.zeros(3)}, {"w": weight})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_conjugate_and_negative_views_take_the_values_that_they_show() -> None:
    base = torch.zeros(2, dtype=torch.complex64)
    other = torch.zeros(2, dtype=torch.complex64)
    values = torch.tensor([1 + 2j, -3 - 4j], dtype=torch.complex64)
    pull({"c": values, "n": torch.tensor([5.0, -6.0])}, {"c": base.conj(), "n": other.conj().imag})
    assert base.tolist() == [1 - 2j, -3 + 4j]
    assert other.imag.tolist() == [-5.0, 6.0]


def test_a_packed_dtype_keeps_its_torch_shape() -> None:
    packed = getattr(torch, "float4_e2m1fn_x2", None)
    if packed is None:
        pytest.skip("this torch has no packed dtype")
    version = {"w": torch.arange(8, dtype=torch.uint8).view(packed).view(2, 4)}
    assert StateDictSource(version).layout.tensors[0].shape == (2, 8)
    into = {"w": torch.zeros(4, 2, dtype=torch.uint8).view(packed).t()}
    pull(version, into)
    assert torch.equal(into["w"].view(torch.uint8), version["w"].view(torch.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(3, 2)}, r"tensor 'a': expected float32 \[2, 3\].*got float32 \[3, 2\]"),
        ({"a": torch.zeros(2, 3).half()}, r"'a': expected float32 \[2, 3\].*got float16 \[2, 3\]"),
        ({"c": torch.zeros(1).long()}, r"'c': expected int64 \[\].*got int64 \[1\]"),
        ({"a": None}, "tensor 'a': in the version, but not in `into`"),
        ({"z": torch.zeros(1)}, "tensor 'z': in `into`, but not in the version"),
        ({"a": torch.zeros(2, 3, device="meta")}, "'a': cannot be written .*meta"),
        ({"a": torch.zeros(3).expand(2, 3)}, "'a': cannot be written.*share memory"),
        ({"a": torch.zeros(4).as_strided((2, 3), (1, 1))}, "'a': cannot be written.*share memory"),
        ({"a": "text"}, r"'a': cannot be written \(str\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_byte_is_written(
    change: dict[str, torch.Tensor | None], message: str
) -> None:
    into = {name: torch.zeros_like(tensor) for name, tensor in some_version().items()}
    mixed = {name: tensor for name, tensor in {**into, **change}.items() if tensor is not None}
    sink = StateDictSink(mixed)
    with pytest.raises(IntoMismatch, match=message) as caught:
        sink.begin(StateDictSource(some_version()).layout)
    assert "\n" not in str(caught.value)
    assert len(caught.value.problems) == 1
    assert not sink.touched
    assert all(not tensor.any() for tensor in into.values())


def test_the_message_lists_five_problems_and_counts_the_rest() -> None:
    version = {f"w{i}": torch.zeros(2) for i in range(8)}
    sink = StateDictSink({name: torch.zeros(3) for name in version})
    with pytest.raises(IntoMismatch, match=r"'w4'.*; and 3 more$") as caught:
        sink.begin(StateDictSource(version).layout)
    assert "'w5'" not in str(caught.value)
    assert len(caught.value.problems) == 8


def test_a_partial_pull_leaves_the_other_tensors_alone() -> None:
    version = {"a": torch.ones(2), "b": torch.ones(3)}
    into = {"a": torch.zeros(2), "b": torch.zeros(3)}
    found, digest = pull({"a": version["a"]}, into, names=["a"])
    assert list(found) == ["a"]
    assert digest == state_dict_digest({"a": version["a"]})
    assert into["a"].tolist() == [1, 1]
    assert into["b"].tolist() == [0, 0, 0]
    with pytest.raises(IntoMismatch, match="'b': in the version, but not asked for"):
        pull(version, into, names=["a"])
    with pytest.raises(IntoMismatch, match="'c': asked for, but not in the version"):
        pull({"a": version["a"]}, into, names=["a", "c"])
    with pytest.raises(IntoMismatch, match="'b': in the version, but not in `into`"):
        pull(version, {"a": into["a"]}, names=["a", "b"])


def test_tied_tensors_take_equal_values_and_refuse_different_ones() -> None:
    weight = torch.zeros(4)
    into = {"embed": weight, "head": weight, "part": weight[1:3], "odd": weight[1::2]}
    values = torch.arange(4.0)
    version = {"embed": values, "head": values, "part": values[1:3], "odd": values[1::2]}
    assert pull(version, into)[1] == state_dict_digest(version)
    assert torch.equal(weight, values)
    tied = {name: into[name] for name in ("embed", "head")}
    with pytest.raises(IntoMismatch, match="'embed': shares memory"):
        pull({"embed": values, "head": -values}, tied)
    with pytest.raises(IntoMismatch, match=r"'(part|embed)': shares memory"):
        pull({**version, "part": torch.tensor([8.0, 9.0])}, into)


def test_a_short_tensor_between_does_not_hide_an_overlap() -> None:
    weight = torch.zeros(4)
    into = {"a": weight[3:], "big": weight, "x": weight[1:2]}
    values = torch.arange(4.0)
    with pytest.raises(IntoMismatch, match="'a': shares memory"):
        pull({"a": torch.tensor([9.0]), "big": values, "x": values[1:2]}, into)


def test_interleaved_views_are_no_clash() -> None:
    memory = torch.zeros(6)
    pull({"even": torch.ones(3), "odd": -torch.ones(3)}, {"even": memory[::2], "odd": memory[1::2]})
    assert memory.tolist() == [1, -1] * 3


def test_a_short_stream_and_a_long_one_are_refused() -> None:
    source = StateDictSource({"w": torch.ones(4)})
    data = b"".join(source.chunks(offset=source.layout.data_offset))
    sink = StateDictSink()
    sink.begin(source.layout)
    sink.write(data[:5])
    with pytest.raises(TruncatedStream, match="5 of 16") as caught:
        sink.finish()
    assert (caught.value.received, sink.received, sink.touched) == (5, 5, True)
    sink.write(data[5:])
    with pytest.raises(ValueError, match="1 bytes more"):
        sink.write(b"x")
    assert sink.finish()[1] == source.digest()
    sink.begin(source.layout)  # starts over
    assert (sink.received, sink.touched) == (0, False)


def test_the_order_of_calls_is_checked() -> None:
    for call in (StateDictSink().finish, lambda: StateDictSink().write(b"x")):
        with pytest.raises(RuntimeError, match="begin"):
            call()


def test_a_window_is_filled_in_place_and_ends_with_its_tensor() -> None:
    source = StateDictSource({"a": torch.tensor([1, 2]), "b": torch.tensor([3], dtype=torch.int32)})
    data = b"".join(source.chunks(offset=source.layout.data_offset))
    into = {"a": torch.zeros(2).long(), "b": torch.zeros(1).int()}
    sink = StateDictSink(into)
    sink.begin(source.layout)
    sizes = []
    while window := sink.window(12):
        sizes.append(len(window))
        window[:] = data[sink.received :][: len(window)]
        with pytest.raises(ValueError, match="do not fit"):
            sink.advance(99)
        sink.advance(len(window))
    assert sizes == [12, 4, 4]
    assert sink.finish()[1] == source.digest() == state_dict_digest(into)


def test_a_corrupted_byte_changes_the_digest() -> None:
    source = StateDictSource(some_version())
    data = bytearray(b"".join(source.chunks(offset=source.layout.data_offset)))
    data[3] ^= 1
    sink = StateDictSink()
    sink.begin(source.layout)
    sink.write(data)
    assert sink.finish()[1] != source.digest()


def test_a_dtype_that_torch_lacks_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedTensor, match=r"'w' \(F6_E2M3\)"):
        StateDictSink().begin(build([("w", "F6_E2M3", (4,))]))


@pytest.mark.parametrize(
    "error",
    [IntoMismatch(["a", "b"]), TruncatedStream(1, 2), UnsupportedTensor("w", "int1", "no name")],
)
def test_errors_survive_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_mapped_file_shows_its_tensors_without_a_copy(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.empty(0, 3), "c": torch.tensor(5)}
    path = tmp_path / "blob"
    path.write_bytes(b"".join(StateDictSource(tensors).chunks()))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        read_only = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    layout = parse(mapped[:])
    found = tensors_from_buffer(mapped, layout)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    mapped[layout.data_offset + layout.by_name()["c"].begin] = 6
    assert found["c"].item() == 6
    with pytest.raises(BufferError):
        mapped.close()
    with pytest.raises(ValueError, match="read-only"):
        tensors_from_buffer(read_only, layout)
    with pytest.raises(ValueError, match="ends at byte"):
        tensors_from_buffer(bytearray(layout.total_bytes - 1), layout)


def test_misaligned_entries_are_copied() -> None:
    layout = build([("a", "F32", (2,))])
    data = bytearray(b"?") + struct.pack("<2f", 1.5, -2.0)
    found = tensors_from_buffer(data, layout, data_start=1)["a"]
    assert found.tolist() == [1.5, -2.0]
    assert found.data_ptr() % 4 == 0
