"""The JSON of a safetensors header: what an entry may hold, and how to read one from anywhere.

Half of `weightsync.layout`, which is where to import from. Nothing here trusts the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of one element, for every dtype that safetensors 0.8.0 knows, spelt as in the header."""

METADATA = "__metadata__"

_MAX_SIZE = 2**63 - 1  # dimensions, elements and offsets: an int64, as in torch and numpy
# A Python object takes some 60 bytes and a hostile header can ask for one with two or three
# characters ("[[],[],..."); these two limits bound what is built before it is refused.
_MAX_ENTRY_CHARACTERS = 1 << 16
_MAX_METADATA_KEYS = 1 << 16
_FIELDS = ["data_offsets", "dtype", "shape"]
_SPACE = re.compile(r"[ \t\n\r]+")
_T = TypeVar("_T")


class LayoutError(ValueError):
    """A layout that is not allowed. Do not retry with the same input.

    `reason` is one of header_too_large, header_truncated, header_not_json (also: JSON, but not of
    the form that the format asks for), duplicate_name, unknown_dtype, bad_shape, bad_offsets,
    overlapping_offsets, gap, size_mismatch, bad_metadata, bad_name, unknown_tensor. The text is
    one line and names the tensor, where there is one.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: `begin` and `end` are byte offsets in the data section.

    `shape` counts elements, also where an element is less than a byte (F4, F6_*).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def read(text: str) -> tuple[list[TensorEntry], dict[str, str]]:
    """The entries, in the order of the text, and the metadata of a header's JSON.

    Each entry is checked by itself (name, dtype, shape, offsets, length); that they fit together is
    the caller's to check. Raises `LayoutError`. Time and memory are linear in the text.
    """
    metadata: dict[str, str] = {}

    def read_member(name: str, pos: int) -> tuple[TensorEntry | None, int]:
        if name != METADATA:
            return _read_entry(text, name, pos)
        if text.startswith("null", pos):  # as safetensors does
            return None, pos + 4
        found, pos = _read_object(text, pos, METADATA, lambda key, at: _read_value(text, key, at))
        metadata.update(found)
        return None, pos

    if not text.startswith("{"):
        raise not_json("it does not begin with '{'")
    members, pos = _read_object(text, 0, "the header", read_member)
    if _skip_space(text, pos) != len(text):
        raise not_json(f"more text after its end, at character {pos}")
    return [entry for entry in members.values() if entry is not None], metadata


def size_in_bytes(name: str, dtype: str, shape: tuple[int, ...]) -> int:
    """How many bytes a tensor takes; raises `LayoutError` (unknown_dtype, bad_shape)."""
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        message = f"tensor {quote(name)} has the unknown dtype {quote(dtype)}"
        raise LayoutError("unknown_dtype", f"{message}; known are {', '.join(DTYPE_BITS)}")
    for dim in shape:
        if type(dim) is not int or not 0 <= dim <= _MAX_SIZE:
            message = "not all of the shape are integers from 0 to 2**63 - 1"
            raise LayoutError("bad_shape", f"tensor {quote(name)}: {message}")
    size = prod(shape) * bits
    # Readers multiply in the order of the dimensions, so the zero that makes it fit may come late.
    if (size or prod(dim or 1 for dim in shape)) > _MAX_SIZE:
        raise LayoutError("bad_shape", f"tensor {quote(name)}: the shape is too large")
    if size % 8:
        message = f"{size // bits} elements of {dtype} do not fill whole bytes"
        raise LayoutError("bad_shape", f"tensor {quote(name)}: {message}")
    return size // 8


def check_name(name: object) -> None:
    """Raises `LayoutError` (bad_name) unless `name` may name a tensor: any Unicode text may."""
    if not isinstance(name, str):
        raise LayoutError("bad_name", f"the tensor name {quote(name)} is not a text")
    if name == METADATA:
        raise LayoutError("bad_name", f"{METADATA!r} is reserved and cannot name a tensor")
    if not _is_unicode(name):
        raise LayoutError("bad_name", f"the tensor name {quote(name)} contains a lone surrogate")


def check_metadata(key: object, value: object) -> None:
    """Raises `LayoutError` (bad_metadata) unless both are Unicode texts."""
    for part in (key, value):
        if not isinstance(part, str) or not _is_unicode(part):
            message = "is not a text of Unicode characters"
            raise LayoutError("bad_metadata", f"{METADATA} {quote(key)}: {quote(part)} {message}")


def not_json(problem: str) -> LayoutError:
    return LayoutError("header_not_json", f"the header is not a safetensors header: {problem}")


def quote(value: object) -> str:
    """`value` on one line and of bounded length, whatever a header said."""
    if isinstance(value, str):
        return repr(value if len(value) <= 100 else value[:100] + "...")
    return f"of type {type(value).__name__}"


def _read_object(
    text: str, pos: int, what: str, read_value: Callable[[str, int], tuple[_T, int]]
) -> tuple[dict[str, _T], int]:
    """The members of the JSON object at text[pos], and the position after it.

    The outer levels of a header are read here and not by `json.loads`, which would first build all
    that a hostile header holds, however deep and large.
    """
    found: dict[str, _T] = {}
    if not text.startswith("{", pos):
        raise LayoutError("bad_metadata", f"{what} is not an object")
    pos = _skip_space(text, pos + 1)
    if text.startswith("}", pos):
        return found, pos + 1
    while True:
        key, pos = _read_string(text, pos)
        if key in found:
            raise LayoutError("duplicate_name", f"{quote(key)} appears twice in {what}")
        pos = _skip_space(text, pos)
        if not text.startswith(":", pos):
            raise not_json(f"no ':' at character {pos}")
        found[key], pos = read_value(key, _skip_space(text, pos + 1))
        if what == METADATA and len(found) > _MAX_METADATA_KEYS:
            raise LayoutError("bad_metadata", f"{METADATA} has over {_MAX_METADATA_KEYS} keys")
        pos = _skip_space(text, pos)
        if text.startswith("}", pos):
            return found, pos + 1
        if not text.startswith(",", pos):
            raise not_json(f"neither ',' nor '}}' at character {pos}")
        pos = _skip_space(text, pos + 1)


def _read_entry(text: str, name: str, pos: int) -> tuple[TensorEntry, int]:
    """The tensor whose object begins at text[pos], and the position after it."""
    check_name(name)
    what = f"tensor {quote(name)}"
    if not text.startswith("{", pos):
        raise not_json(f"{what} is not an object")
    end = text.find("}", pos, pos + _MAX_ENTRY_CHARACTERS) + 1  # no field holds a '}'
    if not end:
        raise not_json(f"{what} does not end within {_MAX_ENTRY_CHARACTERS} characters")
    try:
        pairs = _ENTRIES.decode(text[pos:end])
    except (ValueError, RecursionError) as error:
        raise not_json(f"{what}: {error or type(error).__name__}") from None
    keys = sorted(key for key, _ in pairs)
    if keys != _FIELDS:
        if len(set(keys)) < len(keys):
            raise LayoutError("duplicate_name", f"{what} has a field twice")
        raise not_json(f"{what} does not have exactly the fields {', '.join(_FIELDS)}")
    fields: dict[str, Any] = dict(pairs)
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(shape, list):
        raise LayoutError("bad_shape", f"{what}: the shape is not a list")
    nbytes = size_in_bytes(name, dtype, tuple(shape))
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise LayoutError("bad_offsets", f"{what}: data_offsets are not a list of two")
    begin, stop = offsets
    if type(begin) is not int or type(stop) is not int or not 0 <= begin <= stop <= _MAX_SIZE:
        message = "data_offsets are not two ascending integers from 0 to 2**63 - 1"
        raise LayoutError("bad_offsets", f"{what}: {message}")
    if stop - begin != nbytes:
        message = f"{stop - begin} bytes of data, but {dtype} {_quote_shape(shape)} takes {nbytes}"
        raise LayoutError("size_mismatch", f"{what}: {message}")
    return TensorEntry(name, dtype, tuple(shape), begin, stop), end


def _read_value(text: str, key: str, pos: int) -> tuple[str, int]:
    """The metadata text at text[pos], and the position after it."""
    if not text.startswith('"', pos):
        raise LayoutError("bad_metadata", f"{METADATA} {quote(key)} is not a text")
    value, pos = _read_string(text, pos)
    check_metadata(key, value)
    return value, pos


def _read_string(text: str, pos: int) -> tuple[str, int]:
    if not text.startswith('"', pos):
        raise not_json(f"no text in quotes at character {pos}")
    try:
        value, pos = _STRINGS.raw_decode(text, pos)
    except ValueError as error:
        raise not_json(str(error)) from None
    return str(value), pos


def _quote_shape(shape: list[int]) -> str:
    return str(shape) if len(shape) <= 8 else f"of {len(shape)} dimensions"


def _skip_space(text: str, pos: int) -> int:
    space = _SPACE.match(text, pos)
    return space.end() if space else pos


def _read_int(digits: str) -> int | None:
    """None, which no check accepts, for "-0" and for more digits than any size has."""
    return int(digits) if digits[0] != "-" and len(digits) <= 20 else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_STRINGS = json.JSONDecoder()
_ENTRIES = json.JSONDecoder(
    object_pairs_hook=list,
    parse_int=_read_int,
    parse_float=lambda _: None,
    parse_constant=lambda _: None,
)
