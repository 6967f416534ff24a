"""Other ways to move a state dict between processes, measured in the same rounds.

A rival is a module with `running(size_bytes, explorers)`, which holds its service, and
`connect(address)`, which gives a peer its end of it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, cast

import torch

from benchmarks.processes import Service

_MODULES = {"flight": "benchmarks.flight", "ray": "benchmarks.ray_weights"}
PACKAGES = {"flight": "pyarrow", "ray": "ray"}
"""Rival -> the package that it needs."""


class Link(Protocol):
    """A peer's end."""

    def push(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Returns once whoever pulls gets these weights."""

    def pull(self, into: Mapping[str, torch.Tensor]) -> object:
        """Returns once the newest weights are in these tensors; what is left, is freed untimed."""

    def close(self) -> None:
        """Ends the connection."""


def missing(names: Iterable[str]) -> str | None:
    """One line that tells which package to install, or None where all are there."""
    packages = [PACKAGES[n] for n in names if importlib.util.find_spec(PACKAGES[n]) is None]
    if not packages:
        return None
    return f"--with needs what is not installed: pip install {' '.join(packages)}"


def running(name: str, size_bytes: int, explorers: int) -> AbstractContextManager[Service]:
    """The rival's service, ended with the block. Raises RuntimeError where it does not start."""
    module = importlib.import_module(_MODULES[name])
    return cast(AbstractContextManager[Service], module.running(size_bytes, explorers))


def connect(name: str, address: str) -> Link:
    """A peer's end of a running service."""
    return cast(Link, importlib.import_module(_MODULES[name]).connect(address))
