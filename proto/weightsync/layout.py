"""The safetensors file layout: which tensor lies where, with no tensor data and no I/O.

A safetensors stream is an 8-byte little-endian length n, then n bytes of JSON (one object: tensor
name -> dtype, shape, data_offsets, and optionally "__metadata__" -> texts), then the data section,
which the tensors cover from its first byte to its last with no gap and no overlap. Format:
https://github.com/huggingface/safetensors. Whatever `parse` accepts, safetensors 0.8.0 accepts;
`parse` is stricter in that it also refuses repeated keys, unknown fields, lone surrogates, sizes
beyond 2**63, more than 65,536 metadata keys, and an entry of more than 65,536 characters.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weightsync._header import (
    DTYPE_BITS,
    METADATA,
    LayoutError,
    TensorEntry,
    check_metadata,
    check_name,
    not_json,
    quote,
    read,
    size_in_bytes,
)

__all__ = [
    "DATA_ALIGNMENT",
    "DTYPE_BITS",
    "MAX_HEADER_BYTES",
    "Layout",
    "LayoutError",
    "TensorEntry",
    "UnknownTensor",
    "build",
    "header_size",
    "parse",
]

MAX_HEADER_BYTES = 64 << 20
"""Default limit for the JSON part of a header, in bytes (safetensors itself stops at 100 MB)."""

DATA_ALIGNMENT = 64
"""A built data section begins at a multiple of this many bytes: a cache line, an AVX-512 load."""

_PREFIX = struct.Struct("<Q")


class UnknownTensor(LayoutError, KeyError):
    """`Layout.select` was asked for a tensor that is not there; `reason` is unknown_tensor."""


@dataclass(frozen=True)
class Layout:
    """A whole safetensors stream but for its data. Made by `parse`, `build` and `Layout.select`.

    `tensors` are in data order: by `begin`, an empty tensor before the one that begins where it
    lies. `header` is complete: length prefix, JSON and padding, in bytes. `data_bytes` is the
    length of the data section. Offsets in `tensors` count from `data_offset`.
    """

    tensors: tuple[TensorEntry, ...]
    header: bytes
    data_bytes: int
    metadata: Mapping[str, str] = field(hash=False)

    @property
    def data_offset(self) -> int:
        """Where the data section begins in the stream, in bytes."""
        return len(self.header)

    @property
    def total_bytes(self) -> int:
        """The length of the whole stream, in bytes."""
        return len(self.header) + self.data_bytes

    @cached_property
    def _by_name(self) -> dict[str, TensorEntry]:
        return {entry.name: entry for entry in self.tensors}

    def by_name(self) -> dict[str, TensorEntry]:
        """The entries by tensor name. It is the same dict at every call: do not change it."""
        return self._by_name

    def select(self, names: Iterable[str]) -> tuple[Layout, list[tuple[int, int]]]:
        """The layout of a stream with only these tensors, and where its data lies in this one.

        The ranges are (begin, end) in this data section, ascending, touching ones merged: their
        bytes in this order are the new data section. The tensors keep their order and the metadata
        is kept; a name given twice counts once. Raises `UnknownTensor` for a name not in here.
        """
        wanted = dict.fromkeys(names)
        for name in wanted:
            if name not in self._by_name:
                raise UnknownTensor("unknown_tensor", f"there is no tensor {quote(name)}")
        kept: list[TensorEntry] = []
        ranges: list[tuple[int, int]] = []
        position = 0
        for entry in self.tensors:
            if entry.name not in wanted:
                continue
            end = position + entry.nbytes
            kept.append(TensorEntry(entry.name, entry.dtype, entry.shape, position, end))
            position = end
            if ranges and ranges[-1][1] == entry.begin:
                ranges[-1] = (ranges[-1][0], entry.end)
            elif entry.nbytes:
                ranges.append((entry.begin, entry.end))
        return _assemble(kept, self.metadata), ranges


def build(
    specs: Iterable[tuple[str, str, Iterable[int]]], metadata: Mapping[str, str] | None = None
) -> Layout:
    """The layout of a new stream for these (name, dtype, shape), given in any order.

    Tensors lie by element size descending, then by name, so that each is aligned to its element
    size, and the same tensors always give the same bytes. `shape` counts elements. Raises
    `LayoutError` (bad_name, unknown_dtype, duplicate_name, bad_shape, bad_metadata,
    header_too_large).
    """
    sized: dict[str, tuple[int, str, str, tuple[int, ...], int]] = {}
    for name, dtype, shape in specs:
        check_name(name)
        if name in sized:
            raise LayoutError("duplicate_name", f"tensor {quote(name)} appears twice")
        dims = tuple(shape)
        nbytes = size_in_bytes(name, dtype, dims)
        sized[name] = (-DTYPE_BITS[dtype], name, dtype, dims, nbytes)
    entries: list[TensorEntry] = []
    position = 0
    for _, name, dtype, dims, nbytes in sorted(sized.values()):
        entries.append(TensorEntry(name, dtype, dims, position, position + nbytes))
        position += nbytes
    texts = dict(metadata or {})
    for key, value in texts.items():
        check_metadata(key, value)
    return _assemble(entries, texts)


def header_size(
    prefix: bytes, total_bytes: int | None = None, max_header_bytes: int = MAX_HEADER_BYTES
) -> int:
    """How many bytes `parse` needs: 8 and the length that the first 8 bytes of a stream announce.

    To be called before anything more is read or allocated. `total_bytes` is the length of the
    whole stream, if known; `max_header_bytes` limits the JSON part. Raises `LayoutError`
    (header_truncated, header_too_large).
    """
    if len(prefix) < _PREFIX.size:
        message = f"the stream ends after {len(prefix)} bytes, before the 8-byte header length"
        raise LayoutError("header_truncated", message)
    length = int(_PREFIX.unpack_from(prefix)[0])
    if length > max_header_bytes:
        message = f"the header is said to have {length} bytes; {max_header_bytes} are allowed"
        raise LayoutError("header_too_large", message)
    size = _PREFIX.size + length
    if total_bytes is not None and size > total_bytes:
        message = f"the header is said to end at byte {size}; the stream has {total_bytes} bytes"
        raise LayoutError("header_truncated", message)
    return size


def parse(
    header: bytes | bytearray | memoryview,
    total_bytes: int | None = None,
    max_header_bytes: int = MAX_HEADER_BYTES,
) -> Layout:
    """The layout that a header from anywhere describes, or `LayoutError` with almost any reason.

    `header` begins with the length prefix; what comes after the JSON (the data of a mapped file)
    is not looked at. `total_bytes` is the length of the whole stream, which the tensors must fill
    exactly; None if it is not known. Time and memory are linear in the header, also when hostile.
    """
    size = header_size(bytes(header[: _PREFIX.size]), total_bytes, max_header_bytes)
    if len(header) < size:
        message = f"the header is said to have {size} bytes; there are {len(header)}"
        raise LayoutError("header_truncated", message)
    raw = bytes(header[:size])
    try:
        text = str(memoryview(raw)[_PREFIX.size :], "utf-8")
    except UnicodeDecodeError as error:
        raise not_json(f"no UTF-8 at byte {_PREFIX.size + error.start}") from None
    entries, metadata = read(text)
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            message = f"begins at {entry.begin}, but the tensors before it end at {position}"
            reason = "overlapping_offsets" if entry.begin < position else "gap"
            raise LayoutError(reason, f"tensor {quote(entry.name)} {message}")
        position = entry.end
    if total_bytes is not None and size + position != total_bytes:
        message = f"the tensors end at byte {size + position}, but the stream at {total_bytes}"
        last = f", the last is {quote(entries[-1].name)}" if entries else ""
        raise LayoutError("size_mismatch", message + last)
    return Layout(tuple(entries), raw, position, metadata)


def _assemble(entries: list[TensorEntry], metadata: Mapping[str, str]) -> Layout:
    """The layout of checked entries in data order, with the header written for them."""
    members: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    for entry in entries:
        members[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": (entry.begin, entry.end),
        }
    text = json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()
    padding = b" " * (-(_PREFIX.size + len(text)) % DATA_ALIGNMENT)
    length = len(text) + len(padding)
    if length > MAX_HEADER_BYTES:
        message = f"the header would have {length} bytes; {MAX_HEADER_BYTES} are allowed"
        raise LayoutError("header_too_large", message)
    data_bytes = entries[-1].end if entries else 0
    header = _PREFIX.pack(length) + text + padding
    return Layout(tuple(entries), header, data_bytes, dict(metadata))
