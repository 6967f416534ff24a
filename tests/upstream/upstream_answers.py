"""Asks Trinity-RFT's own classes; run as a process of its own, prints JSON.

Trainer, Explorer, Synchronizer and the validator of the configuration are upstream's, unchanged,
on objects made without `__init__`. Only the Ray handle is ours: it calls the real Synchronizer
and notes what was called.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.upstream import stubs, table

stubs.install()
constants = importlib.import_module("trinity.common.constants")
config = importlib.import_module("trinity.common.config")
Explorer = importlib.import_module("trinity.explorer.explorer").Explorer
Trainer = importlib.import_module("trinity.trainer.trainer").Trainer
Synchronizer = importlib.import_module("trinity.manager.synchronizer").Synchronizer
Validator = importlib.import_module("trinity.common.config_validator").SynchronizerConfigValidator


class Handle:
    """A Ray actor handle, as far as `need_sync` uses one: `handle.method.remote()`."""

    def __init__(self, actor: object) -> None:
        self._actor = actor
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self._actor, name)

        async def remote(*arguments: Any) -> Any:
            self.calls.append(name)
            result = method(*arguments)
            return await result if inspect.isawaitable(result) else result

        return SimpleNamespace(remote=remote)


def synchronizer(trainer_state: str = "running", requiring: int = 0) -> Handle:
    """A handle to a real Synchronizer in that state."""
    status = constants.RunningStatus
    actor = object.__new__(Synchronizer)
    actor.trainer_status = status(trainer_state)
    actor.explorer_status_counts = {status.REQUIRE_SYNC: requiring, status.RUNNING: 2}
    actor._ready_condition = asyncio.Condition()
    return Handle(actor)


@functools.cache
def settings(style: str, method: str, interval: int, override: int | None, offset: int) -> Any:
    """The `synchronizer` section after upstream's validator filled in what was not set."""
    section = config.SynchronizerConfig(
        sync_method=constants.SyncMethod(method),
        sync_style=constants.SyncStyle(style),
        sync_interval=interval,
        explorer_sync_interval=override,
        trainer_sync_interval=override,
        sync_offset=offset,
    )
    whole = SimpleNamespace(
        synchronizer=section,
        ray_namespace="ns",
        cluster=SimpleNamespace(rollout_gpu_num=1),
        mode="both",
        model=SimpleNamespace(lora_configs=None),
    )
    validator = object.__new__(Validator)
    validator.validate(whole)
    assert section.sync_method is constants.SyncMethod(method)  # it did not choose another one
    return section


async def ask_explorer(row: table.ExplorerRow) -> str:
    """The answer, 0 or 1, and then the calls."""
    section = settings(row.style, row.method, row.interval, row.override, row.offset)
    explorer = object.__new__(Explorer)
    explorer.sync_style, explorer.sync_method = section.sync_style, section.sync_method
    explorer.sync_interval = section.explorer_sync_interval
    explorer.sync_offset = section.sync_offset
    explorer.explore_step_num = row.step
    explorer.rollout_coordinator = None  # nothing is under way that had to be finished
    explorer.synchronizer = synchronizer(trainer_state=row.trainer_state)
    return said(await explorer.need_sync(), explorer.synchronizer)


async def ask_trainer(row: table.TrainerRow) -> str:
    """The answer, 0 or 1, and then the calls."""
    section = settings(row.style, row.method, row.interval, row.override, 0)
    trainer = object.__new__(Trainer)
    trainer.sync_style, trainer.sync_method = section.sync_style, section.sync_method
    trainer.sync_interval = section.trainer_sync_interval
    trainer.engine = SimpleNamespace(train_step_num=row.step)
    trainer.last_sync_step = row.last_sync_step
    trainer.synchronizer = synchronizer(requiring=row.explorers_requiring)
    return said(await trainer.need_sync(), trainer.synchronizer)


def said(needs: object, handle: Handle) -> str:
    """ "1 trainer_requires_weight_sync" and the like."""
    assert isinstance(needs, bool), needs
    return " ".join([str(int(needs)), *handle.calls])


def spelling(kind: str, text: str) -> str | None:
    """The value that upstream's enum has for a text; None where it refuses it."""
    try:
        return str(getattr(constants, kind)(text).value)
    except ValueError:
        return None


async def main() -> None:
    """Prints everything."""
    answers = {
        "explorer": [await ask_explorer(row) for row in table.EXPLORER_ROWS],
        "trainer": [await ask_trainer(row) for row in table.TRAINER_ROWS],
        "SyncStyle": [spelling("SyncStyle", text) for text in table.SPELLINGS],
        "SyncMethod": [spelling("SyncMethod", text) for text in table.SPELLINGS],
    }
    json.dump(answers, sys.stdout)


asyncio.run(main())
