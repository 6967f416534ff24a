"""State dicts for tests: every dtype, shape and name, down to the last bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import strategies as st

from sync_client.tensors import TORCH_DTYPES

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)
shapes = st.one_of(
    st.sampled_from([(), (0,), (0, 3), (3, 0), (1, 1, 1), (1000,), (3, 1, 5)]),
    st.lists(st.integers(0, 6), max_size=4).map(tuple),
)


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random bytes, so that floats hold NaN payloads, infinities, -0.0 and denormals."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype is torch.bool else 256
    raw = torch.randint(0, high, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any tensor that can travel, some of them not contiguous."""
    dtype = TORCH_DTYPES[draw(st.sampled_from(sorted(TORCH_DTYPES)))]
    tensor = random_tensor(dtype, draw(shapes), draw(st.integers(0, 2**16)))
    form = draw(st.sampled_from(["plain", "plain", "transposed", "strided"]))
    if form == "transposed" and tensor.ndim >= 2:
        return tensor.transpose(0, -1)
    if form == "strided" and tensor.ndim >= 1:
        return tensor[::2]
    return tensor


@st.composite
def state_dicts(draw: st.DrawFn, max_size: int = 6) -> dict[str, torch.Tensor]:
    """Any state dict; some names show the same tensor (tied weights)."""
    found = draw(st.dictionaries(names, tensors(), max_size=max_size))
    if found and draw(st.booleans()):
        found[draw(names)] = found[draw(st.sampled_from(sorted(found)))]
    return found


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in row-major order, without our own code."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    return plain.view(_INTEGERS[plain.itemsize]).contiguous().numpy().tobytes()


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert raw_bytes(found[name]) == raw_bytes(tensor), name
