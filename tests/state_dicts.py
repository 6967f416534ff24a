"""State dicts for tests: every dtype, shape and name, down to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Recipe:
    """How to make a tensor. Drawn in its place, since torch can't print every dtype."""

    dtype: str
    shape: tuple[int, ...]
    seed: int
    form: str

    def tensor(self) -> torch.Tensor:
        """The tensor; not contiguous where the form says so."""
        # Two values a byte: torch's F4 is refused without a dimension to count them in.
        shape = self.shape or ((1,) if self.dtype == "F4" else ())
        tensor = random_tensor(TORCH_DTYPES[self.dtype], shape, self.seed)
        if self.form == "transposed" and tensor.ndim >= 2:
            return tensor.transpose(0, -1)
        if self.form == "strided" and tensor.ndim >= 1:
            return tensor[::2]
        return tensor


recipes = st.builds(
    Recipe,
    st.sampled_from(sorted(TORCH_DTYPES)),
    shapes,
    st.integers(0, 2**16),
    st.sampled_from(["plain", "plain", "transposed", "strided"]),
)
cookbooks = st.dictionaries(names, recipes, max_size=6)
"""What `cook` makes a state dict of."""


def cook(cookbook: Mapping[str, Recipe]) -> dict[str, torch.Tensor]:
    """A state dict; equal recipes give one tensor under several names (tied weights)."""
    made = {recipe: recipe.tensor() for recipe in cookbook.values()}
    return {name: made[recipe] for name, recipe in cookbook.items()}


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
