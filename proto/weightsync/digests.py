r"""Digests of tensors and of whole weight versions. They guard against accidents, not tampering.

**Tensor digest**, "xxh3-64:" and 16 lower-case hex digits: XXH3-64 (seed 0) of the tensor's bytes
as safetensors stores them (C order, little-endian), written as the 64-bit number with the most
significant digit first. Of no bytes it is "xxh3-64:2d06800538d394c2".

**Version digest**, "xxh3-128:" and 32 lower-case hex digits: XXH3-128 (seed 0) of a text with one
line for each tensor, `["name","DTYPE",[dims],"xxh3-64:..."]` and a line feed, for example

    ["b.bias","F32",[],"xxh3-64:2d06800538d394c2"]

The lines are sorted by name, compared code point by code point (not by UTF-16 unit, which differs
beyond U+FFFF). A line has no spaces but those of names, and dims are decimal. Names and dtypes are
JSON texts in pure ASCII: a quote and a backslash get a backslash before them; \b \t \n \f \r are
written so; any other character outside U+0020..U+007E (so U+007F too) is \u and four lower-case hex
digits, as a UTF-16 surrogate pair beyond U+FFFF; a slash stays as it is. The version with no
tensors has the digest of no bytes, "xxh3-128:99aa06d3014798d86001c324468d497f".

So the digest says nothing about the order of tensors in a file, padding or metadata, and is the
same whichever way the bytes came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import index, itemgetter
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from weightsync.layout import Layout

__all__ = [
    "StreamDigester",
    "TensorDigester",
    "check_digest",
    "check_version_digest",
    "tensor_digest",
    "text_digest",
    "version_digest",
]

_TENSOR = "xxh3-64:"
_VERSION = "xxh3-128:"
_DIGEST = re.compile(r"xxh3-64:[0-9a-f]{16}|xxh3-128:[0-9a-f]{32}")
_encode_line = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def check_digest(text: str) -> str:
    """`text` itself, if it is a tensor or version digest as written above, else ValueError."""
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return text
    rule = "use 'xxh3-64:' and 16, or 'xxh3-128:' and 32 lower-case hex digits"
    raise ValueError(f"{str(text)[:100]!r} is not a digest: {rule}")


def check_version_digest(text: str) -> str:
    """`text` itself, if it is the digest of a version and not of a tensor, else ValueError."""
    if check_digest(text).startswith(_VERSION):
        return text
    raise ValueError(f"{text!r} is the digest of a tensor: use '{_VERSION}' and 32 hex digits")


def tensor_digest(data: ReadableBuffer) -> str:
    """The tensor digest of all bytes of a C-contiguous buffer, of whatever item type and shape.

    Raises ValueError if it is not C-contiguous, BufferError or TypeError if it is no buffer.
    """
    with memoryview(data) as view:
        _check_contiguous(view)
        return _TENSOR + xxhash.xxh3_64_hexdigest(view)


def version_digest(entries: Iterable[tuple[str, str, Sequence[int], str]]) -> str:
    """The version digest of (name, dtype, shape, tensor digest), given in any order.

    Raises ValueError if a name comes twice or a digest is not a tensor digest.
    """
    hasher = xxhash.xxh3_128()
    previous: str | None = None
    for name, dtype, shape, digest in sorted(entries, key=itemgetter(0)):
        if name == previous:
            raise ValueError(f"tensor {name!r} appears twice")
        if not check_digest(digest).startswith(_TENSOR):
            raise ValueError(f"tensor {name!r} has the digest of a version, {digest}")
        previous = name
        line = _encode_line([name, dtype, [index(dim) for dim in shape], digest])
        hasher.update(line.encode("ascii") + b"\n")
    return _VERSION + hasher.hexdigest()


class TensorDigester:
    """The digest of one tensor whose bytes come in pieces."""

    def __init__(self) -> None:
        self._hasher = xxhash.xxh3_64()

    def update(self, view: ReadableBuffer) -> None:
        """Takes the next bytes: any C-contiguous buffer."""
        self._hasher.update(view)

    def digest(self) -> str:
        """The digest of what came."""
        return _TENSOR + self._hasher.hexdigest()


class StreamDigester:
    """All digests of a data section in one pass over its bytes, without copying them.

    Not safe for use from two threads at once.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        empty = tensor_digest(b"")
        self._digests = {entry.name: empty for entry in layout.tensors if not entry.nbytes}
        self._filled = [entry for entry in layout.tensors if entry.nbytes]
        self._current = 0  # index in _filled of the tensor that the next byte belongs to
        self._hasher = xxhash.xxh3_64()
        self._position = 0

    @classmethod
    def of(cls, layout: Layout, digests: Mapping[str, str]) -> StreamDigester:
        """One that has taken everything; `digests` of all tensors were computed elsewhere.

        Raises KeyError where one is missing.
        """
        made = cls(layout)
        made._digests = {entry.name: digests[entry.name] for entry in layout.tensors}
        made._position = layout.data_bytes
        return made

    @property
    def position(self) -> int:
        """How many bytes of the data section have come."""
        return self._position

    def update(self, view: ReadableBuffer) -> None:
        """Takes the next bytes of the data section: any C-contiguous buffer, of any length.

        Raises ValueError if they are more than the layout has left, or not C-contiguous; then none
        of them counts. Holds no reference to the buffer afterwards.
        """
        with memoryview(view) as given:
            _check_contiguous(given)
            if not given.nbytes:  # a view with a zero in its shape cannot be cast
                return
            left = self._layout.data_bytes - self._position
            if given.nbytes > left:
                raise ValueError(f"{given.nbytes} bytes came, but the layout has only {left} left")
            with given.cast("B") as data:
                self._consume(data)

    def _consume(self, data: memoryview) -> None:
        start = 0
        while start < len(data):
            entry = self._filled[self._current]
            stop = min(start + entry.end - self._position, len(data))
            if stop - start == entry.nbytes:
                self._digests[entry.name] = _TENSOR + xxhash.xxh3_64_hexdigest(data[start:stop])
            else:
                self._hasher.update(data[start:stop])
            self._position += stop - start
            start = stop
            if self._position == entry.end:
                if entry.name not in self._digests:
                    self._digests[entry.name] = _TENSOR + self._hasher.hexdigest()
                    self._hasher.reset()
                self._current += 1

    def tensor_digest(self, name: str) -> str:
        """The digest of one tensor. Raises KeyError before its last byte has come."""
        return self._digests[name]

    def tensor_digests(self) -> dict[str, str]:
        """The tensor digests by name, in data order. Raises ValueError if bytes are missing."""
        missing = self._layout.data_bytes - self._position
        if missing:
            raise ValueError(f"{missing} of {self._layout.data_bytes} bytes have not come")
        return {entry.name: self._digests[entry.name] for entry in self._layout.tensors}

    def version_digest(self) -> str:
        """The version digest of what came. Raises ValueError if bytes are missing."""
        digests = self.tensor_digests()
        return version_digest(
            (entry.name, entry.dtype, entry.shape, digests[entry.name])
            for entry in self._layout.tensors
        )


def _check_contiguous(view: memoryview) -> None:
    """One kind of exception, whatever the buffer: xxhash raises what its owner raises."""
    if not view.c_contiguous:
        raise ValueError("the buffer is not C-contiguous; make a contiguous copy first")


def text_digest(text: str) -> str:
    """XXH3-128 of a text in UTF-8, written like a version digest.

    For versions whose bytes are elsewhere: it tells two of them apart, and is that of no tensors.
    """
    return _VERSION + xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
