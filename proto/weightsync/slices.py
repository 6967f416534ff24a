"""Slices of tensors: how the header of a shard says which part of a tensor it holds.

A shard is an ordinary safetensors stream. A tensor that is only a part of a larger one has an entry
in the metadata, key `weightsync.slices`: a JSON object of name -> [full shape, start], where
`start` is the index of its first element in each dimension. What has no entry is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from weightsync.layout import Layout

SLICES_KEY = "weightsync.slices"
_MAX_DIMENSION = 2**63 - 1


class SliceError(ValueError):
    """The slices of a shard make no sense: why, in one line. Do not retry."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A box of a tensor: `shape` elements from `start` on, of `full`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: tuple[int, ...]
    full: tuple[int, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the tensor."""
        return self.shape == self.full


Placement = tuple[tuple[int, ...], tuple[int, ...]]
"""(full shape, start) of a slice."""


def encode(slices: Mapping[str, Placement]) -> dict[str, str]:
    """The metadata of a stream that holds these slices; {} where all tensors are whole."""
    if not slices:
        return {}
    return {SLICES_KEY: json.dumps(slices, separators=(",", ":"))}


def decode(layout: Layout) -> list[Slice]:
    """Every tensor of a shard as a slice, in the order of its bytes. Raises SliceError."""
    text = layout.metadata.get(SLICES_KEY, "{}")
    _check_size(text, layout)
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SliceError(f"the metadata {SLICES_KEY} is no JSON") from error
    if not isinstance(content, dict):
        raise SliceError(f"the metadata {SLICES_KEY} is no JSON object")
    unknown = content.keys() - layout.by_name().keys()
    if unknown:
        raise SliceError(f"a slice of {min(unknown)!r}, which is not in the shard")
    found = []
    for entry in layout.tensors:
        whole = Slice(entry.name, entry.dtype, entry.shape, (0,) * len(entry.shape), entry.shape)
        given = content.get(entry.name)
        found.append(whole if given is None else _slice(whole, given))
    return found


def _check_size(text: str, layout: Layout) -> None:
    """Raises SliceError for more than the tensors need: a Python object takes some 60 bytes, and
    hostile JSON asks for one with three characters ("[],[],...")."""
    count = len(layout.tensors)
    names = "".join(entry.name for entry in layout.tensors)
    # Twice 19 digits, a comma and a space a dimension; a character as two "\uXXXX".
    longest = 12 * len(names) + 42 * sum(len(entry.shape) for entry in layout.tensors) + 16 * count
    marks = (("[", 3), ("{", 0), ('"', 2))
    if len(text) > longest + 16 or any(
        text.count(mark) > each * count + names.count(mark) + 1 for mark, each in marks
    ):
        raise SliceError(f"the metadata {SLICES_KEY} is larger than {count} slices can be")


def _slice(whole: Slice, given: Any) -> Slice:
    if not isinstance(given, list) or len(given) != 2 or not all(map(_is_shape, given)):
        raise SliceError(f"the slice of {whole.name!r} is no [full shape, start]")
    full, start = map(tuple, given)
    if not len(full) == len(start) == len(whole.shape) or any(
        begin + size > end for begin, size, end in zip(start, whole.shape, full, strict=True)
    ):
        raise SliceError(
            f"{whole.name!r}: {list(whole.shape)} elements from {list(start)} on do not lie in "
            f"{list(full)}"
        )
    return Slice(whole.name, whole.dtype, whole.shape, start, full)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= _MAX_DIMENSION
        for size in value
    )
