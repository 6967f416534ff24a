"""Lets upstream's Trainer, Explorer and Synchronizer be imported and run without Ray and vLLM.

What is stood in for is not on the path from a loop to the synchronizer: the inference engine, the
training engine, tasks, batches, the monitor, and Ray itself. Upstream's own modules that decide,
wait, retry and save are the real ones. For a process of its own: nothing undoes this.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from tests.upstream.loops import engine, own_actor, rollouts


class _Nothing:
    """In place of a class that is imported and not used."""


class _Monitor:
    """Drops what it is told."""

    def __init__(self, **arguments: object) -> None:
        pass

    def log(self, data: dict[str, Any], step: int, commit: bool = False) -> None:
        """One step's figures."""

    def close(self) -> None:
        """There is nothing to flush."""


class _Registry:
    """Upstream's registries, with one entry for every name."""

    def __init__(self, entry: type) -> None:
        self._entry = entry

    def get(self, name: str) -> type:
        """The entry."""
        return self._entry


def _module(name: str, **members: object) -> None:
    module = types.ModuleType(name)
    module.__path__ = []
    module.__dict__.update(members)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def install() -> None:
    """From here on the modules below are these."""
    _ray()
    _module("omegaconf", OmegaConf=_Nothing)
    _module("pandas")
    samples = _Registry(engine.SampleStrategy)
    _module("trinity.algorithm", SAMPLE_STRATEGY=samples)
    _module("trinity.algorithm.sample_strategy")
    _module("trinity.algorithm.sample_strategy.sample_strategy", SampleStrategy=_Nothing)
    _module("trinity.buffer")
    _module("trinity.buffer.buffer", get_buffer_reader=None)
    _module("trinity.buffer.task_scheduler", get_taskset_scheduler=rollouts.Taskset)
    _module("trinity.common.experience", Experience=_Nothing)
    _module("trinity.common.models")
    _module("trinity.common.models.allocator", Allocator=rollouts.Allocator)
    _module("trinity.common.models.model", ModelWrapper=_Nothing)
    _module("trinity.explorer.rollout_coordinator", RolloutCoordinator=rollouts.RolloutCoordinator)
    _module("trinity.utils.monitor", MONITOR=_Registry(_Monitor))
    # Upstream's copies every plugin into the installed package.
    _module("trinity.utils.plugin_loader", load_plugins=lambda: None)
    _module("trinity.trainer.verl")
    _module("trinity.trainer.verl.trainer", VERLTrainer=engine.verl_trainer)


def _ray() -> None:
    """As much of Ray as `Synchronizer.get_actor` and the loops use; see own_actor.py."""
    _module("ray", **{name: getattr(own_actor, name) for name in own_actor.RAY})
    _module("ray.actor", ActorHandle=own_actor.ActorHandle)
    _module("ray.exceptions", RayActorError=own_actor.RayActorError)
