"""Whether the shards of a version make whole tensors, and who is missing (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from math import prod
from typing import NamedTuple, Protocol

from sync_server.domain.errors import InvalidArgument, InvalidHeader

MAX_SHARDS = 4096
_NAMED = 8  # missing shards that a message lists

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""(start, shape)."""


class SliceLike(Protocol):
    """What is needed of a `weightsync.slices.Slice`."""

    @property
    def name(self) -> str:
        """Of the tensor."""

    @property
    def dtype(self) -> str:
        """In safetensors' words."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the slice."""

    @property
    def start(self) -> tuple[int, ...]:
        """The index of its first element."""

    @property
    def full(self) -> tuple[int, ...]:
        """The tensor's shape."""


class Whole(NamedTuple):
    """A tensor of the version."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def check_shard(index: int, count: int) -> None:
    """Raises InvalidArgument."""
    if not 1 <= count <= MAX_SHARDS or not 0 <= index < count:
        raise InvalidArgument(
            f"shard {index} of {count}: 1 to {MAX_SHARDS} shards, counted from 0, are allowed",
            field="shard_index",
        )


def missing(count: int, there: Iterable[int]) -> str:
    """Who is missing, in words: "shards 1, 3 of 4"."""
    absent = sorted(set(range(count)) - set(there))
    names = ", ".join(map(str, absent[:_NAMED])) + (", …" if len(absent) > _NAMED else "")
    return f"shard{'s' if len(absent) > 1 else ''} {names} of {count}"


def whole_tensors(shards: Mapping[int, Sequence[SliceLike]]) -> list[Whole]:
    """The tensors that the shards make up together.

    Two shards may bring the same slice (it has to be the same bytes then); slices that overlap in
    part, leave elements out, or disagree about dtype or shape raise InvalidHeader.
    """
    found: dict[str, tuple[Whole, set[Box]]] = {}
    for index, slices in shards.items():
        for part in slices:
            whole = Whole(part.name, part.dtype, part.full)
            known, boxes = found.setdefault(part.name, (whole, set()))
            if known != whole:
                raise InvalidHeader(
                    f"tensor {part.name!r} is {known.dtype} {list(known.shape)} in one shard and "
                    f"{part.dtype} {list(part.full)} in shard {index}"
                )
            boxes.add((part.start, part.shape))
    for whole, boxes in found.values():
        _check_tiles(whole, boxes)
    return [whole for whole, _ in found.values()]


def _check_tiles(whole: Whole, boxes: set[Box]) -> None:
    covered = sum(prod(shape) for _, shape in boxes)
    total = prod(whole.shape)
    # By volume alone a gap can hide behind an overlap.
    if _overlap([box for box in boxes if prod(box[1])]):
        raise InvalidHeader(f"tensor {whole.name!r}: slices of two shards overlap in part")
    if covered != total:
        raise InvalidHeader(
            f"tensor {whole.name!r}: the shards bring {covered} of its {total} elements"
        )


def _overlap(boxes: list[Box]) -> bool:
    """Whether any two of different boxes share an element.

    Linear in a grid of boxes, however many ranks make it: dimension by dimension they fall into
    groups that lie side by side. Only groups that do not are compared pair by pair.
    """
    todo = [(boxes, 0)]
    while todo:
        some, axis = todo.pop()
        if len(some) < 2:
            continue
        groups: dict[tuple[int, int], list[Box]] = {}
        for box in some:
            groups.setdefault((box[0][axis], box[1][axis]), []).append(box)
        if all(a + n <= b for (a, n), (b, _) in pairwise(sorted(groups))):
            todo += [(group, axis + 1) for group in groups.values()]
        elif any(_share(one, other) for one, other in combinations(some, 2)):
            return True
    return False


def _share(one: Box, other: Box) -> bool:
    return all(
        a < b + m and b < a + n
        for a, n, b, m in zip(one[0], one[1], other[0], other[1], strict=True)
    )
