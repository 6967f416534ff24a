"""The explorer's side: a model that really loads weights, and rollouts that are only paced.

A process has one explorer, and that one model.
"""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.until import until_async
from tests.upstream.loops import weights
from tests.upstream.loops.batches import PATIENCE_SECONDS, Batch, Pool
from tests.upstream.loops.journal import Journal
from tests.upstream.loops.settings import Settings

_models: list[Model] = []


class Model:
    """In place of upstream's `ModelWrapper` of a vLLM or SGLang engine.

    `version` is the step whose weights it has, by their bytes; 0 those that it began with.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.version = 0
        self._settings = settings
        self._journal = Journal(settings.journal(name))

    async def get_available_address_async(self, random_port: bool = False) -> tuple[str, int]:
        """Of a process group that is not set up."""
        return "127.0.0.1", 1

    async def init_process_group(self, **arguments: object) -> None:
        """There is no GPU."""

    async def sync_model_weights(self, version: int, method: Any, timeout: float = 1200) -> int:
        """Loads the weights of a version, or newer ones, and checks every value of them."""
        found = await asyncio.to_thread(self._load, version, method.value)
        self.version = weights.step_of(found)
        self._journal.write("loaded", version=self.version, told=version)
        return version

    def _load(self, version: int, method: str) -> dict[str, torch.Tensor]:
        """In a thread, as engines do that have a process of their own. Every second version is
        loaded the other way that upstream's engines have."""
        ray = importlib.import_module("ray")
        synchronizers = importlib.import_module("trinity.manager.synchronizer")
        handle = synchronizers.Synchronizer.get_actor(namespace=self._settings.namespace)
        if method == "checkpoint":
            if version % 2:  # vllm_model.py
                path = str(self._settings.checkpoints / f"global_step_{version}" / "actor")
            else:  # sglang_model.py
                path = ray.get(handle.get_latest_model_path.remote())
            return weights.load(Path(path))
        if version % 2:  # vllm_extension.py
            return dict(ray.get(ref) for ref in handle.get_model_state_dict_iterator.remote())
        found, number = ray.get(handle.get_model_state_dict.remote())
        if number != int(found["model.step"]):
            raise weights.WrongWeights(f"step {int(found['model.step'])} came as {number}")
        whole: dict[str, torch.Tensor] = found
        return whole

    async def shutdown(self) -> None:
        """It holds nothing."""


class Allocator:
    """Makes the model."""

    def __init__(self, explorer_config: Any) -> None:
        self._settings: Settings = explorer_config.loops
        self._name: str = explorer_config.name

    async def create_all_models(self) -> tuple[list[Model], list[list[Model]]]:
        """Rollout models, and lists of auxiliary ones."""
        _models.append(Model(self._settings, self._name))
        return list(_models), []


class RolloutCoordinator:
    """Makes batches one after the other, each as soon as there is room for it."""

    def __init__(self, config: Any) -> None:
        self._settings: Settings = config.loops
        self._name: str = config.explorer.name
        self._journal = Journal(self._settings.journal(self._name))
        self._pool = Pool(self._settings.pool)
        self._turn = asyncio.Lock()
        self._under_way: dict[int, asyncio.Task[None]] = {}

    @classmethod
    def get_actor(cls, config: Any) -> Any:
        """A handle, of which `method.remote(...)` is to be awaited."""
        return _Handle(cls(config))

    async def prepare(self) -> None:
        """There is nothing to start."""

    async def submit_batch(
        self, *, batch_id: int, tasks: list[Any], batch_type: str, min_wait_num: int | None = None
    ) -> None:
        """Starts one."""
        self._under_way[batch_id] = asyncio.create_task(self._roll_out(batch_id))

    async def finalize_train_batch(self, batch_id: int) -> dict[str, Any]:
        """Waits for one."""
        await self._under_way.pop(batch_id)
        return {"metrics": {}, "finished_task_count": 1}

    async def shutdown(self) -> None:
        """Ends what is under way."""
        for task in self._under_way.values():
            task.cancel()

    async def _roll_out(self, number: int) -> None:
        async with self._turn:  # the tasks begin in the order in which they were made
            await until_async(lambda: self._may_begin(number), PATIENCE_SECONDS)
            version = _models[0].version
            self._journal.write("rollout", batch=number, version=version)
            self._pool.put(Batch(self._name, number, version))

    def _may_begin(self, number: int) -> bool:
        if len(self._pool.waiting(self._name)) >= self._settings.ahead:
            return False
        allowed = self._settings.staleness
        return allowed is None or number - 1 - _models[0].version <= allowed


class _Handle:
    def __init__(self, coordinator: RolloutCoordinator) -> None:
        self._coordinator = coordinator

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._coordinator, name))


class Taskset:
    """As many batches of tasks as the run has."""

    def __init__(self, explorer_state: dict[str, Any], config: Any) -> None:
        self._left = config.loops.batches - explorer_state.get("latest_iteration", 0)

    async def read(self) -> list[str]:
        """The next batch. Raises StopAsyncIteration."""
        if self._left <= 0:
            raise StopAsyncIteration
        self._left -= 1
        return ["task"]

    def state_dict(self) -> list[dict[str, int]]:
        """What upstream writes to its state file."""
        return [{"left": self._left}]

    def feedback(self, metrics: dict[str, Any]) -> None:
        """It learns nothing."""
