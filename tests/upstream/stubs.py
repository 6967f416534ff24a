"""Lets Trinity-RFT's classes be imported without Ray, vLLM and what else it asks for.

Only modules that the code under test never reaches are stood in for; every line that decides when
to synchronize is upstream's own. For a process of its own: nothing undoes this.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

# Each of these is imported by trainer.py, explorer.py, synchronizer.py or config.py, and used in
# methods that no test here calls.
STUBBED = (
    "omegaconf",
    "pandas",
    "ray",
    "torch",
    "trinity.algorithm",
    "trinity.buffer",
    "trinity.common.experience",
    "trinity.common.models",
    "trinity.explorer.rollout_coordinator",
    "trinity.utils.monitor",
    "trinity.utils.plugin_loader",
)


class _Anything(type):
    """A class of which every attribute is another one: good for annotations, and for no call."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _StubModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the stubbed modules before the real ones are looked for."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(name == stub or name.startswith(f"{stub}.") for stub in self._names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


def install(*real: str) -> None:
    """From here on the stubbed modules are stubs, but for those that are named."""
    sys.meta_path.insert(0, _Stubs(frozenset(STUBBED) - set(real)))
