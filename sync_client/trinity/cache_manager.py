"""Trinity-RFT's CacheManager over the progress service, in place of files in a cache directory.

From `trinity.manager.CacheManager` (its documentation: save_explorer, load_explorer,
save_trainer, load_trainer); the keys of what is loaded are upstream's.
"""

from __future__ import annotations

from typing import Any

from sync_client import errors
from sync_client.blocking import SyncClient
from sync_client.trinity.runs import get, namespace_of, plain, run_id


class CacheManager:
    """Remembers how far trainer and explorer of a run got.

    config: Trinity-RFT's configuration, or any object or mapping with `ray_namespace`, which
    names the run (else `WEIGHTSYNC_RUN`); `trainer.name` and `explorer.name` name the records.
    check_config: compare the configuration with the one that the run began with, and raise
    ConfigMismatch (a ValueError, as upstream) that names every key that differs.
    server: default `WEIGHTSYNC_SERVER`. Raises ServerUnavailable.
    """

    def __init__(
        self, config: Any, check_config: bool = False, *, server: str | None = None
    ) -> None:
        self._client = SyncClient(server, run_id(namespace_of(config)))
        self._trainer = str(get(config, "trainer", "name") or "trainer")
        self._explorer = str(get(config, "explorer", "name") or "explorer")
        if check_config:
            try:
                self._client.check_config(plain(config))
            except BaseException:
                self._client.close()
                raise

    def __enter__(self) -> CacheManager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection. Upstream has no such method; without it the process' end does."""
        self._client.close()

    def save_explorer(self, current_task_index: int, current_step: int) -> None:
        """Saves where exploration is: the next task, and the last finished step."""
        self._client.save_progress(
            self._explorer,
            kind="explorer",
            current_task_index=current_task_index,
            current_step=current_step,
        )

    def load_explorer(self) -> dict[str, int]:
        """`latest_task_index` and `latest_iteration`; {} where nothing was saved."""
        record = self._load(self._explorer)
        if not record:
            return {}
        return {
            "latest_task_index": record["current_task_index"],
            "latest_iteration": record["current_step"],
        }

    def save_trainer(self, current_step: int) -> None:
        """Saves the last finished training step."""
        self._client.save_progress(self._trainer, kind="trainer", current_step=current_step)

    def load_trainer(self) -> dict[str, int]:
        """`latest_iteration`; {} where nothing was saved."""
        record = self._load(self._trainer)
        return {"latest_iteration": record["current_step"]} if record else {}

    def _load(self, name: str) -> dict[str, Any]:
        try:
            return dict(self._client.load_progress(name).record)
        except (errors.ProgressNotFound, errors.RunNotFound):
            return {}
