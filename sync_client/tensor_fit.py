"""Whether a version fits the tensors that it should go into."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from sync_client.tensor_memory import (
    UnsupportedTensor,
    address_range,
    describe,
    dtype_text,
    overlaps_itself,
)


def name_problems(wanted: Collection[str], found: Collection[str], where: str) -> list[str]:
    """Which names are on one side alone: a line each."""
    missing = [f"tensor {n!r}: {where}, but not in the version" for n in wanted if n not in found]
    return missing + [
        f"tensor {name!r}: in the version, but not {where}" for name in found if name not in wanted
    ]


def fit_problems(
    name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]
) -> list[str]:
    """Why `tensor` cannot take a tensor of the version: no line, or one."""
    try:
        describe(name, tensor)
    except UnsupportedTensor as error:
        return [f"tensor {name!r}: cannot be written ({error.dtype}): {error.detail}"]
    expected = f"{dtype_text(dtype)} {list(shape)}"
    got = f"{dtype_text(tensor.dtype)} {list(tensor.shape)}"
    if expected != got:
        return [f"tensor {name!r}: expected {expected} as in the version, got {got} in `into`"]
    if overlaps_itself(tensor):
        return [f"tensor {name!r}: cannot be written, its elements share memory (expand)"]
    return []


def overlapping(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """The names whose address ranges touch another one's on the same device."""
    found: set[str] = set()
    ranges = sorted((str(t.device), *address_range(t), name) for name, t in tensors.items())
    device, end, holder = "", 0, ""
    for where, start, stop, name in ranges:
        if where == device and start < end:
            found |= {name, holder}
        if where != device or stop > end:
            device, end, holder = where, stop, name
    return found
