"""Which run a Trinity-RFT configuration means, and the configuration as plain data."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_RUN_ID = 128


def run_id(namespace: str | None) -> str:
    """The run id of a Ray namespace such as "project/name".

    What a run id may not hold becomes "-", and then a hash of the namespace is added, so that two
    namespaces never share a run. None or "": `WEIGHTSYNC_RUN`, else "default".
    """
    if not namespace:
        return os.environ.get("WEIGHTSYNC_RUN") or "default"
    slug = _FORBIDDEN.sub("-", namespace).lstrip("._-")
    if slug == namespace and len(slug) <= _MAX_RUN_ID:
        return slug
    tag = hashlib.blake2b(namespace.encode(), digest_size=4).hexdigest()
    return f"{slug[: _MAX_RUN_ID - len(tag) - 1] or 'run'}-{tag}"


def namespace_of(config: Any) -> str | None:
    """The Ray namespace of a configuration (an object or a mapping), or None."""
    found = get(config, "ray_namespace")
    return found if isinstance(found, str) and found else None


def get(config: Any, *path: str) -> Any:
    """`config.a.b` or `config["a"]["b"]`, None where any part is missing."""
    for part in path:
        if config is None:
            return None
        config = config.get(part) if isinstance(config, Mapping) else getattr(config, part, None)
    return config


def plain(value: Any) -> Any:
    """A configuration as plain data, the same in every process: dataclasses, mappings and plain
    objects (by their public attributes) as dicts, sets sorted, enums by value, functions and
    classes by name, the rest that JSON does not know as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "__dict__"):
        public = {key: item for key, item in vars(value).items() if not key.startswith("_")}
        return plain(public)
    return str(value)
