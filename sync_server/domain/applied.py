"""What an explorer has really loaded, beside what it was told to load (pure).

Others compare version numbers. An adapter that was never delivered, a tensor that was skipped and a
label that moved without its bytes all carry the right number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from sync_server.domain.versions import VersionBook

EMPTY_DIGEST = "xxh3-128:99aa06d3014798d86001c324468d497f"
"""The digest of no tensors."""
_NAMED = 3
_LONGEST = 500  # names come from anybody


class Finding(Enum):
    """How a report compares with the version it names."""

    EQUAL = "equal"
    NOTHING = "nothing"
    OTHER_VERSION = "other_version"
    DIFFERENT = "different"
    UNKNOWN_VERSION = "unknown_version"


@dataclass(frozen=True, slots=True)
class Applied:
    """What an explorer reported to have loaded; `reported_at` in wall seconds."""

    version: int
    digest: str
    reported_at: float
    verified: bool
    finding: str = ""
    """The value of a `Finding`; "": from a release that did not look."""
    problem: str = ""


class Held(NamedTuple):
    """One tensor, of a version or of an explorer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


def finding(
    book: VersionBook, version: int, digest: str, differences: Sequence[str] = ()
) -> tuple[Finding, str]:
    """What a report means, and what is wrong in one line ("": nothing).

    `differences`: what `compare` found, where the tensors are known.
    """
    expected = book.digest_of(version)
    if expected == digest:
        return Finding.EQUAL, ""
    if digest == EMPTY_DIGEST:
        return Finding.NOTHING, "no tensor is loaded"
    other = book.number_of(digest)
    if other is not None:
        return Finding.OTHER_VERSION, f"the bytes are those of version {other}, not {version}"
    if expected is None:
        return Finding.UNKNOWN_VERSION, f"there is no version {version} to compare with"
    more = len(differences) - _NAMED
    text = "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return Finding.DIFFERENT, text[:_LONGEST] or f"the bytes are not those of version {version}"


def compare(version: Iterable[Held], explorer: Iterable[Held]) -> list[str]:
    """How the tensors of an explorer differ from those of a version: a line each."""
    wanted = {tensor.name: tensor for tensor in version}
    loaded = {tensor.name: tensor for tensor in explorer}
    found = []
    for name, tensor in wanted.items():
        other = loaded.get(name)
        if other is None:
            found.append(f"tensor {name!r} is not loaded")
        elif (text := _difference(tensor, other)) is not None:
            found.append(f"tensor {name!r} {text}")
    found += [f"tensor {name!r} is none of the version" for name in loaded if name not in wanted]
    return found


def _difference(tensor: Held, other: Held) -> str | None:
    if other.dtype != tensor.dtype:
        return f"is {other.dtype}, not {tensor.dtype}"
    if other.shape != tensor.shape:
        turned = sorted(other.shape) == sorted(tensor.shape)
        how = " (transposed?)" if turned else ""
        return f"has shape {list(other.shape)}, not {list(tensor.shape)}{how}"
    return None if other.digest == tensor.digest else "has other bytes"
