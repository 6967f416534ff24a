"""The memory of tensors: which dtypes travel, which tensors can be read, and their bytes.

Nothing here knows about streams or servers. `tensors.py` and `tensor_sink.py` build on it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Sequence
from math import prod

import torch

from weightsync.digests import tensor_digest

if sys.byteorder != "little":  # safetensors is little-endian and tensor memory is sent as it is
    raise ImportError("weightsync sends tensor memory as it is and needs a little-endian machine")

_PACKED = "F4"  # two values a byte: torch counts bytes in the last dimension, safetensors values

# Every dtype that torch 2.13 and safetensors 0.8 share. Older torch lacks the last ones.
_DTYPE_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    _PACKED: "float4_e2m1fn_x2",
}
TORCH_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, attribute)
    for name, attribute in _DTYPE_NAMES.items()
    if hasattr(torch, attribute)
}
"""safetensors dtype name -> torch dtype, for every dtype that can travel."""

SAFETENSORS_DTYPES: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
"""torch dtype -> safetensors dtype name."""

# Copies go through integers of the same width: exact for every NaN, and defined for every dtype.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class UnsupportedTensor(ValueError):
    """A value of a state dict, or a tensor of a version, that cannot travel. Do not retry.

    Attributes: `name` (the key), `dtype` (a torch or safetensors dtype name, or the type of a
    value that is no tensor), `detail` (why, in words). Nothing was sent or written.
    """

    def __init__(self, name: object, dtype: str, detail: str) -> None:
        super().__init__(name, dtype, detail)  # `args` as given, so that it can be pickled
        self.name = name
        self.dtype = dtype
        self.detail = detail

    def __str__(self) -> str:
        return f"tensor {self.name!r} ({self.dtype}): {self.detail}"


def dtype_text(dtype: torch.dtype) -> str:
    """`torch.bfloat16` as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def torch_type(name: str, dtype: str, shape: Sequence[int]) -> tuple[torch.dtype, tuple[int, ...]]:
    """The torch dtype and shape of a header entry. Raises UnsupportedTensor for what torch lacks.

    Only F4 changes its shape: safetensors counts values, torch counts bytes of two values.
    """
    found = TORCH_DTYPES.get(dtype)
    if found is None:
        raise UnsupportedTensor(name, dtype, f"torch {torch.__version__} has no such dtype")
    if dtype != _PACKED:
        return found, tuple(shape)
    if not shape or shape[-1] % 2:
        raise UnsupportedTensor(name, dtype, "the last dimension must be even, two values a byte")
    return found, (*shape[:-1], shape[-1] // 2)


def describe(name: str, tensor: torch.Tensor) -> tuple[str, str, tuple[int, ...]]:
    """(name, safetensors dtype, safetensors shape) of a tensor that can travel.

    Raises UnsupportedTensor for everything else: a value that is no tensor, a name that is no
    valid text, a dtype without a safetensors name, and tensors without plain memory (sparse,
    quantized, nested, meta, fake, freed by FSDP, and wrappers such as DTensor).
    """
    if not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        raise UnsupportedTensor(name, kind, "the value is not a torch.Tensor")
    kind = dtype_text(tensor.dtype)
    dtype = SAFETENSORS_DTYPES.get(tensor.dtype)
    problem = _name_problem(name) or _memory_problem(tensor)
    if not problem and dtype is None:
        problem = "safetensors has no name for this dtype"
    shape = () if problem else tuple(tensor.shape)
    if dtype == _PACKED and not problem:
        if not shape:
            problem = "a packed dtype needs at least one dimension"
        else:
            shape = (*shape[:-1], shape[-1] * 2)
    if problem or dtype is None:
        raise UnsupportedTensor(name, kind, problem)
    return name, dtype, shape


def _name_problem(name: object) -> str:
    if not isinstance(name, str):
        return f"its name must be a str, not {type(name).__name__}"
    if name == "__metadata__":
        return "safetensors keeps this name for itself"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name holds a lone surrogate, which is not valid text"
    return ""


def _memory_problem(tensor: torch.Tensor) -> str:
    if torch.nn.parameter.is_lazy(tensor):
        return "a lazy module's parameter has no shape before the first forward pass"
    if tensor.is_nested:
        return "nested tensors have no single shape"
    if tensor.is_quantized:
        return "quantized tensors hold scales that safetensors cannot carry; dequantize it first"
    if tensor.layout != torch.strided:
        return f"{str(tensor.layout).removeprefix('torch.')} tensors are not dense; use to_dense()"
    if hasattr(tensor, "__tensor_flatten__"):
        kind = type(tensor).__name__
        return f"a {kind} holds no plain memory; make a plain tensor first (DTensor: full_tensor())"
    if "meta" in (tensor.device.type, tensor.untyped_storage().device.type):
        return "meta and fake tensors hold no memory"
    # Reading past freed storage ends the process: torch hands out an address all the same.
    if tensor.numel() and tensor.untyped_storage().nbytes() < _last_element(tensor) * (
        tensor.itemsize
    ):
        return "its storage was freed (FSDP does so outside of forward and backward)"
    return ""


def _last_element(tensor: torch.Tensor) -> int:
    """How many elements the storage needs to hold this (non-empty) tensor."""
    return int(tensor.storage_offset()) + _span(tensor)


def _span(tensor: torch.Tensor) -> int:
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)


def address_range(tensor: torch.Tensor) -> tuple[int, int]:
    """First byte and one past the last byte that the tensor can touch, gaps included."""
    start = tensor.data_ptr()
    return start, start + (_span(tensor) * tensor.itemsize if tensor.numel() else 0)


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Whether two elements share memory, as after `expand`: such a tensor cannot be written."""
    if not tensor.numel():
        return False
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.numel() > _span(tensor) or any(s > 1 and not stride for s, stride in steps)


def identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for two tensors that show the same bytes of the same memory."""
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tensor.shape,
        tensor.stride(),
        tensor.is_conj(),
        tensor.is_neg(),
    )


def is_flat(tensor: torch.Tensor) -> bool:
    """Whether the bytes can be read and written where they are: CPU, contiguous, no lazy sign."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return False
    return not (tensor.is_conj() or tensor.is_neg())


def memory_view(tensor: torch.Tensor) -> memoryview:
    """The bytes of a flat tensor: writable, format 'B', shape (numel * itemsize,), no copy.

    The view keeps the memory alive, also when the tensor or its parameter gets other data.
    Writing through it needs no grad mode and does not raise the tensor's version counter.
    """
    nbytes = tensor.numel() * tensor.itemsize
    if not nbytes:
        return memoryview(bytearray())
    array = (ctypes.c_ubyte * nbytes).from_address(tensor.data_ptr())
    array.__dict__["tensor"] = tensor.detach()  # a view of ours: `p.data = x` does not reach it
    return memoryview(array).cast("B")


def flat_copy(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes as a contiguous integer tensor in CPU memory, of the same shape."""
    with torch.no_grad():
        plain = tensor.detach().resolve_conj().resolve_neg()
        return _as_integers(plain).to("cpu").contiguous()


def digest_of(tensor: torch.Tensor) -> str:
    """The tensor digest, "xxh3-64:…", of what the tensor holds now."""
    return tensor_digest(memory_view(tensor if is_flat(tensor) else flat_copy(tensor)))


def store(target: torch.Tensor, source: torch.Tensor) -> None:
    """Writes `source` (CPU, contiguous, same dtype and shape) into a tensor that is not flat.

    Exact to the bit, whatever the device and strides; grad and inference mode do not matter.
    """
    plain = target.detach()  # a view of ours, writable whatever grad and inference mode say
    if plain.is_conj() or plain.is_neg():
        plain.copy_(source)
        return
    # In the target's own order of dimensions: three times as fast for a transposed one.
    order = sorted(range(plain.ndim), key=plain.stride, reverse=True)
    _as_integers(plain).permute(order).copy_(_as_integers(source).permute(order))


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(_INTEGERS[tensor.itemsize])


def from_bytes(memory: torch.Tensor, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """A uint8 tensor, shape (n,), as a tensor of another dtype and shape over the same memory."""
    return memory.view(dtype).view(tuple(shape))


def size_of(dtype: torch.dtype, shape: Sequence[int]) -> int:
    """Bytes that a contiguous tensor takes."""
    return prod(shape) * dtype.itemsize


def settle(devices: Iterable[torch.device]) -> None:
    """Waits for all work on these devices; does nothing for the CPU.

    Transfers run on another thread, on that thread's stream. Without this they could read
    weights before the optimizer's kernels are done, or be overtaken by the next forward pass.
    """
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type != "cpu":
            torch.accelerator.synchronize(device)
