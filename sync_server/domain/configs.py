"""The configuration of a run, and how another one differs from it (pure).

The first worker's configuration is kept; a later worker with another one is probably a mistake
that would otherwise be noticed days later. Values of secret keys are kept and compared as keyed
hashes, so that neither the database nor an error message ever holds one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

MASK = "***"
_SECRET = re.compile(
    r"(^|[_.-])(api_?key|access_?key|secret|token|password|passwd|credentials?|private_?key)s?$",
    re.IGNORECASE,
)
_SEALED = "sealed:"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key: None stands for "not there" (a null in the configuration is `Absent` too)."""

    key: str
    old: Value
    new: Value


def seal(run_id: str, config: Mapping[str, Value]) -> dict[str, Value]:
    """The configuration with every secret replaced by a hash that only compares equal."""

    def walk(key: str, value: Value) -> Value:
        if isinstance(value, dict):
            return {name: walk(name, item) for name, item in value.items()}
        if isinstance(value, list):
            return [walk(key, item) for item in value]
        if is_secret(key) and value is not None:
            digest = hashlib.blake2b(repr(value).encode(), key=run_id.encode()[:64])
            return _SEALED + digest.hexdigest()[:32]
        return value

    return {name: walk(name, item) for name, item in config.items()}


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is nobody's business."""
    return _SECRET.search(key) is not None


def differences(old: Mapping[str, Value], new: Mapping[str, Value]) -> list[Difference]:
    """What differs between two sealed configurations, by key; secrets are masked.

    Keys are dotted paths with list positions in brackets: `cluster.nodes[0].name`.
    """
    before, after = dict(_leaves("", dict(old))), dict(_leaves("", dict(new)))
    return [
        Difference(key, _shown(before.get(key)), _shown(after.get(key)))
        for key in sorted(before.keys() | after.keys())
        if key not in before or key not in after or not _same(before[key], after[key])
    ]


def _leaves(path: str, value: Value) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{path}.{name}" if path else name, item)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(f"{path}[{index}]", item)
    else:
        yield path, value


def _same(old: Value, new: Value) -> bool:
    # True == 1 in Python, but not in a configuration.
    return isinstance(old, bool) is isinstance(new, bool) and old == new


def _shown(value: Value) -> Value:
    return MASK if isinstance(value, str) and value.startswith(_SEALED) else value
