"""What one rank of a trainer sends: whole tensors, and its slices of distributed ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch

from sync_client import errors
from sync_client.tensors import StateDictSource, UnsupportedTensor
from weightsync.layout import Layout
from weightsync.slices import Placement, encode


class ShardSource:
    """This rank's part of a state dict, as a stream. A `transfer.Source`.

    Plain tensors are sent whole: several ranks may send the same one, with the same bytes. Of a
    DTensor (FSDP2, tensor parallelism) this rank's local slice is sent, by one rank of those that
    hold the same. Raises UnsupportedTensor, also for a DTensor that is still to be reduced.
    """

    layout: Layout

    def __init__(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        local: dict[str, torch.Tensor] = {}
        slices: dict[str, Placement] = {}
        for name, tensor in state_dict.items():
            if not _is_distributed(tensor):
                local[name] = tensor
                continue
            found = _local_slice(name, tensor)
            if found is not None:
                part, start = found
                local[name] = part
                if part.shape != tensor.shape:
                    slices[name] = tuple(tensor.shape), start
        self.sliced = ", ".join(list(slices)[:1])
        """The name of a tensor that is not whole; "": all are."""
        self._source = StateDictSource(local, metadata=encode(slices))
        self.layout = self._source.layout

    def digest(self) -> str:
        """The digest of what this rank sends."""
        return self._source.digest()

    def segments(self, offset: int = 0) -> Iterator[memoryview]:
        """See `StateDictSource.segments`."""
        return self._source.segments(offset)

    def chunks(self, chunk_bytes: int, offset: int = 0) -> Iterator[memoryview]:
        """See `StateDictSource.chunks`."""
        return self._source.chunks(chunk_bytes, offset)


def shard_source(state_dict: Mapping[str, torch.Tensor], shard_count: int) -> ShardSource:
    """This rank's part. Raises TensorRefused."""
    try:
        source = ShardSource(state_dict)
    except UnsupportedTensor as error:
        raise errors.TensorRefused(str(error)) from error
    if shard_count == 1 and source.sliced:
        raise errors.TensorRefused(f"tensor {source.sliced!r} is a slice, and this is all of it")
    return source


def _is_distributed(tensor: object) -> bool:
    return hasattr(tensor, "placements") and hasattr(tensor, "to_local")


def _local_slice(name: str, tensor: Any) -> tuple[torch.Tensor, tuple[int, ...]] | None:
    """(local tensor, its start in the whole) of a DTensor; None: another rank sends it.

    Mesh dimensions are applied in the order of `_cuts`, each cutting what the ones before it left,
    into parts of equal size, rounded up, as `torch.chunk` does; so the last ranks may have less,
    or nothing.
    """
    mesh, placements = tensor.device_mesh, tensor.placements
    cuts = _cuts(name, tensor)  # first: every rank has to refuse, or some wait for it in vain
    coordinate = mesh.get_coordinate()
    if coordinate is None:
        return None  # this rank has no part of it
    if any(rank for rank, how in zip(coordinate, placements, strict=True) if how.is_replicate()):
        return None
    start, shape = [0] * tensor.ndim, list(tensor.shape)
    for axis in cuts:
        dim = placements[axis].dim % tensor.ndim
        size = -(-shape[dim] // mesh.size(axis))
        begin = min(coordinate[axis] * size, shape[dim])
        start[dim] += begin
        shape[dim] = min(size, shape[dim] - begin)
    local = tensor.to_local()
    if list(local.shape) != shape:
        raise UnsupportedTensor(
            name, "DTensor", f"this rank holds {list(local.shape)}, {shape} was expected"
        )
    # Of a tensor with no element at all no rank has more, and its name has to arrive all the same.
    nothing = 0 in shape and 0 not in tensor.shape
    return None if nothing else (local, tuple(start))


def _cuts(name: str, tensor: Any) -> list[int]:
    """The mesh dimensions that cut a DTensor, in the order in which they do.

    It is from left to right, but for FSDP2 over tensor parallelism along the same dimension: torch
    writes [_StridedShard(d, split_factor=n), Shard(d)] for what n ranks of the mesh dimension on
    the right cut first. Raises UnsupportedTensor for all that does not leave one box a rank.
    """
    mesh, placements = tensor.device_mesh, tensor.placements
    first: list[int] = []
    last: list[int] = []
    for axis, placement in enumerate(placements):
        kind = type(placement).__name__
        if kind == "Shard":
            first.append(axis)
        elif kind == "_StridedShard" and placement.split_factor == prod(
            mesh.size(other)
            for other, right in enumerate(placements)
            if type(right).__name__ == "Shard" and right.dim == placement.dim and other > axis
        ):
            last.append(axis)
        elif kind != "Replicate":
            raise UnsupportedTensor(
                name,
                "DTensor",
                f"{kind} ({placement}) on mesh dimension {axis}: only Shard, Replicate and what "
                "FSDP2 makes of tensor parallelism can be sent; redistribute it first",
            )
    return first + last[::-1]
