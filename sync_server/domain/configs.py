"""The configuration of a run, and how another one differs from it (pure).

The first worker's configuration is kept; a later worker with another one is probably a mistake
that would otherwise be noticed days later. Values of secret keys are kept and compared as keyed
hashes, so that neither the database nor an error message ever holds one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

MASK = "***"
_SECRET = re.compile(
    r"(^|[_.-])((api|access|secret|private|signing|encryption|auth|ssh)[_.-]?key"
    r"|secret|token|password|passwd|passphrase|credential|authorization)s?$",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"tokens?$", re.IGNORECASE)
_CAMEL_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s:]*:[^/@\s]+@")
_PLAIN_NAME = re.compile(r"[^.\[\]\"]+")
_SEALED = "sealed:"


@dataclass(frozen=True, slots=True)
class Difference:
    """One key: None stands for "not there" (a null in the configuration is `Absent` too)."""

    key: str
    old: Value
    new: Value


def seal(run_id: str, config: Mapping[str, Value]) -> dict[str, Value]:
    """The configuration with every secret replaced by a hash that only compares equal.

    Secret is what lies under a secret key, however deep, and a URL with a password in it.
    """

    def walk(keys: tuple[str, ...], value: Value) -> Value:
        if isinstance(value, dict):
            return {name: walk((*keys, name), item) for name, item in value.items()}
        if isinstance(value, list):
            return [walk(keys, item) for item in value]
        if not any(_hidden(key, value) for key in keys):
            return value
        digest = hashlib.blake2b(repr(value).encode(), key=run_id.encode()[:64])
        return _SEALED + digest.hexdigest()[:32]

    return {name: walk((name,), item) for name, item in config.items()}


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is nobody's business."""
    return _SECRET.search(_CAMEL_HUMP.sub("_", key)) is not None


def _hidden(key: str, value: Value) -> bool:
    if value is None or isinstance(value, bool):
        return False
    if isinstance(value, str) and _URL_WITH_PASSWORD.search(value):
        return True
    # A number of tokens, such as max_tokens, is a setting.
    count = not isinstance(value, str) and _TOKEN.search(key)
    return is_secret(key) and not count


def differences(old: Mapping[str, Value], new: Mapping[str, Value]) -> list[Difference]:
    """What differs between two sealed configurations, by key; secrets are masked.

    Keys are dotted paths with list positions in brackets: `cluster.nodes[0].name`. A name that
    could be mistaken for a path is quoted: `env["a.b"]`.
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
            yield from _leaves(_below(path, name), item)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(f"{path}[{index}]", item)
    elif path:  # a configuration without any keys has no leaf
        yield path, value


def _below(path: str, name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        return f"{path}[{json.dumps(name, ensure_ascii=False)}]"
    return f"{path}.{name}" if path else name


def _same(old: Value, new: Value) -> bool:
    # True == 1 in Python, but not in a configuration.
    return isinstance(old, bool) is isinstance(new, bool) and old == new


def _shown(value: Value) -> Value:
    return MASK if isinstance(value, str) and value.startswith(_SEALED) else value
