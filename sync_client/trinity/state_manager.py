"""Trinity-RFT's StateManager over the progress service, in place of files beside the checkpoints.

From `trinity.manager.state_manager.StateManager` of release 0.6.0: the same signatures and the
same dicts. `install(states=True)` puts these methods into upstream's class.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from sync_client import errors
from sync_client.progress import Progress
from sync_client.trinity.runs import get, namespace_of, plain, run_id
from sync_client.trinity.session import Session, session_of
from sync_client.trinity.settings import Settings

_log = logging.getLogger("weightsync")

_STAGE = "stage"
_ABSENT = "0"  # the etag of a record that was never saved


class StateManager:
    """Remembers how far trainer, explorer and stage of a job got.

    path: the checkpoint directory; it names the run where there is no `config`. The run of a
    `config` is that of its `ray_namespace`. check_config: compare the configuration with the one
    that the run began with; ConfigMismatch (a ValueError, as upstream) names every key that
    differs. Every call raises ServerUnavailable once the server was away for ten minutes.
    """

    def __init__(
        self,
        path: str,
        trainer_name: str | None = None,
        explorer_name: str | None = None,
        config: Any = None,
        check_config: bool = False,
    ) -> None:
        self.cache_dir = path
        Path(path).mkdir(parents=True, exist_ok=True)  # as upstream: checkpoints go there
        self._trainer_name = trainer_name
        self._explorer_name = explorer_name
        run = run_id(namespace_of(config) if config is not None else str(Path(path).resolve()))
        server = get(config, "weightsync", "server") or os.environ.get("WEIGHTSYNC_SERVER")
        self._session: Session = session_of(server, run, Settings.of(config))
        if check_config and config is not None:
            self._session.thread.call(_check(self._session, plain(config)))

    def save_explorer(self, current_step: int, taskset_states: list[dict[str, Any]]) -> None:
        """Saves the last finished exploration step, and where each task set stands."""
        _update(
            self._session,
            f"{self._explorer_name}-explorer",
            "explorer",
            {"current_step": current_step, "taskset_states": plain(taskset_states)},
        )

    def load_explorer(self) -> dict[str, Any]:
        """`latest_iteration` and `taskset_states`; {} where nothing was saved."""
        record = _load(self._session, f"{self._explorer_name}-explorer")
        if record is None or not record.record["current_step"]:
            return {}
        return {
            "latest_iteration": record.record["current_step"],
            "taskset_states": list(record.record["taskset_states"]),
        }

    def save_explorer_server_url(self, url: str) -> None:
        """Saves where the explorer serves."""
        name = f"{self._explorer_name}-explorer"
        _update(self._session, name, "explorer", {"server_url": url})

    def load_explorer_server_url(self) -> str | None:
        """Where the explorer serves; None where nothing was saved."""
        record = _load(self._session, f"{self._explorer_name}-explorer")
        return None if record is None else record.record["server_url"] or None

    def save_trainer(self, current_step: int, sample_strategy_state: dict[str, Any]) -> None:
        """Saves the last finished training step, and where sampling stands."""
        _update(
            self._session,
            f"{self._trainer_name}-trainer",
            "trainer",
            {"current_step": current_step, "sample_strategy_state": plain(sample_strategy_state)},
        )

    def load_trainer(self) -> dict[str, Any]:
        """`latest_iteration` and `sample_strategy_state`; {} where nothing was saved."""
        record = _load(self._session, f"{self._trainer_name}-trainer")
        if record is None:
            return {}
        return {
            "latest_iteration": record.record["current_step"],
            "sample_strategy_state": dict(record.record.get("sample_strategy_state") or {}),
        }

    def save_stage(self, current_stage: int) -> None:
        """Saves the stage that comes next."""
        _update(self._session, _STAGE, "stage", {"current_stage_index": current_stage})

    def load_stage(self) -> dict[str, int]:
        """`latest_stage`; {} where nothing was saved."""
        record = _load(self._session, _STAGE)
        return {} if record is None else {"latest_stage": record.record["current_stage_index"]}


async def _check(session: Session, config: dict[str, Any]) -> None:
    client = await session.connect()
    await client.check_config(config)


def _load(session: Session, name: str) -> Progress | None:
    found = session.thread.call(_read(session, name))
    if found is not None:
        _log.info("continuing from %s: %s", name, dict(found.record))
    return found


async def _read(session: Session, name: str) -> Progress | None:
    client = await session.connect()
    try:
        return await client.load_progress(name)
    except (errors.ProgressNotFound, errors.RunNotFound):
        return None


def _update(session: Session, name: str, kind: str, fields: dict[str, Any]) -> None:
    session.thread.call(_merge(session, name, kind, fields))


async def _merge(session: Session, name: str, kind: str, fields: dict[str, Any]) -> None:
    """Changes some fields of a record, whoever else changes others at the same time."""
    client = await session.connect()
    while True:
        found = await _read(session, name)
        etag = _ABSENT if found is None else found.etag
        record = {**({} if found is None else found.record), **fields}
        try:
            await client.save_progress(name, kind=kind, etag=etag, **record)
        except errors.EtagMismatch:
            continue
        return
