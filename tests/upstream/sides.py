"""Upstream's Synchronizer and our handle behind one face, for a process that has the stubs.

Upstream's class is unchanged, as a plain object on the event loop; the handle talks to a real
server. Both are called by the names of upstream's methods.
"""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import torch

from sync_client.trinity import get_actor
from sync_client.trinity.handle import SynchronizerHandle

_synchronizer = importlib.import_module("trinity.manager.synchronizer")
_constants = importlib.import_module("trinity.common.constants")
STATUS: Any = _constants.RunningStatus
JOB_DIR = "/job"


class _Module:
    """A Ray actor that is always alive."""

    class is_alive:
        """Its method."""

        @staticmethod
        async def remote() -> bool:
            """Alive."""
            return True


def config(namespace: str, sync_timeout: float) -> Any:
    """What both sides read of a configuration."""
    return SimpleNamespace(
        mode="both",
        ray_namespace=namespace,
        checkpoint_job_dir=JOB_DIR,
        explorer=SimpleNamespace(name="explorer", rollout_model=SimpleNamespace(enable_lora=False)),
        trainer=SimpleNamespace(name="trainer", trainer_type="verl"),
        synchronizer=SimpleNamespace(
            sync_method=_constants.SyncMethod.MEMORY, sync_timeout=sync_timeout
        ),
    )


def outcome(result: Any) -> Any:
    """A result that can be compared: tensors as lists, upstream's order of tensors aside."""
    if isinstance(result, dict):
        return {key: outcome(value) for key, value in sorted(result.items())}
    if isinstance(result, list):
        return sorted(map(outcome, result), key=repr)
    if isinstance(result, tuple):
        return tuple(map(outcome, result))
    return result.tolist() if isinstance(result, torch.Tensor) else result


class Upstream:
    """Upstream's own Synchronizer."""

    def __init__(self, namespace: str, sync_timeout: float) -> None:
        self.actor = _synchronizer.Synchronizer(config(namespace, sync_timeout), _Module)

    async def call(self, method: str, *arguments: Any) -> Any:
        """What the method gives, or the class of what it raises."""
        try:
            result = getattr(self.actor, method)(*arguments)
            if inspect.isgenerator(result):
                return outcome(list(result))
            return outcome(await result if inspect.isawaitable(result) else result)
        except Exception as error:  # noqa: BLE001 - what is raised is what is compared
            return type(error)

    async def look(self) -> tuple[Any, dict[Any, int], int]:
        """The trainer's status, the counts above 0, the version."""
        actor = self.actor
        counts = {key: count for key, count in actor.explorer_status_counts.items() if count}
        return actor.trainer_status, counts, actor.model_version


class Ours:
    """The handle on a real server."""

    def __init__(self, namespace: str, sync_timeout: float) -> None:
        self.handle: SynchronizerHandle = get_actor(config(namespace, sync_timeout))

    async def call(self, method: str, *arguments: Any) -> Any:
        """What the method gives, or the class of what it raises."""
        try:
            result = getattr(self.handle, method).remote(*arguments)
            if method == "get_model_state_dict_iterator":
                return outcome([await ref async for ref in result])
            return outcome(await result)
        except Exception as error:  # noqa: BLE001 - what is raised is what is compared
            return type(error)

    async def look(self) -> tuple[Any, dict[Any, int], int]:
        """The trainer's status, the counts above 0, the version."""
        trainer = self.handle.get_trainer_status.remote()
        counts = self.handle.get_explorer_status_counts.remote()
        version = self.handle.get_latest_model_version.remote()
        return await trainer, await counts, await version
