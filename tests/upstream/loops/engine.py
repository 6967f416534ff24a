"""The trainer's side: an engine that trains nothing, and the strategy that samples batches."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.upstream.loops import weights
from tests.upstream.loops.batches import Batch, Pool
from tests.upstream.loops.journal import Journal
from tests.upstream.loops.settings import Settings


class Engine:
    """In place of upstream's `VERLTrainer`: the weights of a step come from the step's number.

    What it does with a synchronizer and with files is what verl's workers and upstream's
    CheckpointMonitor do, in their order, with their calls.
    """

    def __init__(self, config: Any) -> None:
        settings: Settings = config.loops
        self._namespace = settings.namespace
        self._checkpoints = settings.checkpoints
        self._journal = Journal(settings.journal(settings.trainer))
        self._step = 0
        self._by_files = settings.method == "checkpoint"
        self._saved: set[Path] = set()

    @property
    def train_step_num(self) -> int:
        """The last finished step."""
        return self._step

    async def prepare(self) -> None:
        """There is no model to load."""

    async def train_step(self, batch_exps: list[Any]) -> dict[str, float]:
        """Trains one step: writes down of which batches."""
        self._step += 1
        batches = [exp.batch for exp in batch_exps]
        self._journal.write("trained", step=self._step, batches=batches)
        return {}

    async def upload_state_dict(self) -> None:
        """As `fsdp_upload_state_dict`: it blocks, with a handle of its own."""
        ray = importlib.import_module("ray")
        synchronizers = importlib.import_module("trinity.manager.synchronizer")
        handle = synchronizers.Synchronizer.get_actor(namespace=self._namespace)
        self._journal.write("publishing", version=self._step)
        ray.get(handle.set_model_state_dict.remote(weights.weights_of(self._step), self._step))
        self._journal.write("published", version=self._step)

    async def save_state_dict(self) -> None:
        """The weights alone, and then the word that they are there."""
        self._save(self._checkpoints / f"global_step_{self._step}")

    async def save_checkpoint(
        self, block_until_saved: bool = False, save_as_hf: bool = False
    ) -> None:
        """A full checkpoint; saved once, however often it is asked for."""
        directory = self._checkpoints / f"global_step_{self._step}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".full_checkpoint").touch()
        self._save(directory)
        (self._checkpoints / "latest_checkpointed_iteration.txt").write_text(str(self._step))

    def _save(self, directory: Path) -> None:
        if directory in self._saved:
            return
        if self._by_files:
            self._journal.write("publishing", version=self._step)
        weights.save(self._step, directory / "actor")
        # Not through a rename: upstream writes it in place, and whoever reads it may find it empty.
        (self._checkpoints / "latest_state_dict_iteration.txt").write_text(str(self._step))
        self._saved.add(directory)
        if self._by_files:
            self._journal.write("published", version=self._step)

    def sync_weight_nccl(self) -> None:
        """There is no GPU."""
        raise NotImplementedError

    async def get_weight_sync_info(self) -> None:
        """There is no GPU."""
        raise NotImplementedError

    async def setup_weight_sync_group(self, *arguments: object) -> None:
        """There is no GPU."""
        raise NotImplementedError

    async def teardown_weight_sync_group(self) -> None:
        """There is no GPU."""
        raise NotImplementedError


class SampleStrategy:
    """Gives the trainer the batches that explorers made."""

    def __init__(self, buffer_config: Any, settings: Settings) -> None:
        self._pool = Pool(settings.pool)
        self._explorers = settings.explorer_names if settings.together else []

    async def sample(self, step: int) -> tuple[list[Any], dict[str, float], list[Any]]:
        """Waits for the batches of a step."""
        batches = await self._pool.take(step, self._explorers)
        return [_experience(batch) for batch in batches], {}, []

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what was taken is gone from the pool."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""


def _experience(batch: Batch) -> SimpleNamespace:
    task = f"{batch.explorer}/{batch.number}"
    return SimpleNamespace(eid=SimpleNamespace(tid=task), batch=batch)


def verl_trainer(config: Any) -> Any:
    """`VERLTrainer(config)`: the engine, as an instance of upstream's interface."""
    trainer = importlib.import_module("trinity.trainer.trainer")
    return type("VERLTrainer", (Engine, trainer.TrainEngineWrapper), {})(config)
