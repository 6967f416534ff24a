"""What one run of upstream's loops is made of, and the Trinity-RFT configuration of it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """One run: a trainer and its explorers, each a process of its own.

    `directory` holds everything that the run writes. `server` is the address of a weightsync
    server, or with `own_actor` of the process that runs upstream's own Synchronizer. Every
    explorer explores `batches` batches, and the trainer trains `steps` steps: of the batch of that
    number of every explorer, or, not `together`, of one batch of whichever explorer.
    An explorer has at most `ahead` batches that wait for the trainer; `staleness` is how many
    versions the model may lie behind the batch that it makes (None: not held to any).
    """

    directory: Path
    namespace: str
    server: str
    method: str
    style: str
    explorers: int
    own_actor: bool = False
    batches: int = 6
    steps: int = 6
    together: bool = True
    interval: int = 1
    offset: int = 0
    ahead: int = 4
    staleness: int | None = None
    save_interval: int = 3

    @property
    def trainer(self) -> str:
        """The trainer's name."""
        return "trainer"

    @property
    def explorer_names(self) -> list[str]:
        """The explorers' names; with one it is upstream's default."""
        if self.explorers == 1:
            return ["explorer"]
        return [f"explorer_{number}" for number in range(self.explorers)]

    @property
    def names(self) -> list[str]:
        """Every process of the run, the trainer first."""
        return [self.trainer, *self.explorer_names]

    @property
    def checkpoints(self) -> Path:
        """Upstream's `checkpoint_job_dir`."""
        return self.directory / "checkpoints"

    @property
    def pool(self) -> Path:
        """Where batches wait for the trainer."""
        return self.directory / "batches"

    def journal(self, name: str) -> Path:
        """What the process of that name wrote down."""
        return self.directory / f"{name}.jsonl"

    def log(self, name: str) -> Path:
        """What the process of that name wrote to standard output and standard error."""
        return self.directory / f"{name}.log"


def trinity_config(settings: Settings, explorer: str) -> Any:
    """Upstream's `Config`, as the configuration file and upstream's validator would have made it.

    `loops` on it and on its explorer section is for the stand-ins, which get nothing else.
    """
    config = importlib.import_module("trinity.common.config")
    validators = importlib.import_module("trinity.common.config_validator")
    whole = config.Config(
        mode="both" if settings.explorers == 1 else "explore",
        name=settings.namespace,
        checkpoint_job_dir=str(settings.checkpoints),
        ray_namespace=settings.namespace,
    )
    whole.synchronizer = config.SynchronizerConfig(
        sync_method=config.SyncMethod(settings.method),
        sync_style=config.SyncStyle(settings.style),
        sync_interval=settings.interval,
        sync_offset=settings.offset,
        sync_timeout=60,
    )
    whole.cluster.rollout_gpu_num = 1
    validators.SynchronizerConfigValidator().validate(whole)
    whole.explorer.name = explorer
    whole.explorer.loops = whole.loops = settings
    whole.trainer.name = settings.trainer
    whole.trainer.total_steps = settings.steps
    whole.trainer.save_interval = settings.save_interval
    whole.algorithm.sample_strategy = "stand-in"
    whole.algorithm.sample_strategy_args = {"settings": settings}
    return whole
