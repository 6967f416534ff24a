"""What the handle needs to know of a Trinity-RFT configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sync_client.trinity.runs import get, namespace_of

# Upstream's own default of `synchronizer.sync_timeout`, for a handle that has no configuration.
DEFAULT_SYNC_TIMEOUT = 3600.0
_MAX_NAME = 128


@dataclass(frozen=True)
class Settings:
    """The part of a configuration that matters here; the defaults are those of no configuration.

    sync_timeout in seconds. `checkpoint_dir` is `checkpoint_job_dir`; `watches_checkpoints` tells
    whether versions come as checkpoints in it. An empty name means: not said.
    """

    namespace: str | None = None
    trainer: str = ""
    explorer: str = ""
    sync_timeout: float = DEFAULT_SYNC_TIMEOUT
    checkpoint_dir: Path | None = None
    watches_checkpoints: bool = False
    remote_samplers: bool = False
    explorer_world_size: int | None = None
    group_name: str = "rollout_weight_sync"

    @classmethod
    def of(cls, config: Any, namespace: str | None = None) -> Settings:
        """From Trinity-RFT's Config, or any object or mapping with the same fields, or None."""
        timeout = get(config, "synchronizer", "sync_timeout")
        directory = get(config, "checkpoint_job_dir")
        method = get(config, "synchronizer", "sync_method")
        group = get(config, "synchronizer", "group_name")
        world_size = get(config, "synchronizer", "explorer_world_size")
        return cls(
            namespace=namespace or namespace_of(config),
            trainer=_name(get(config, "trainer", "name")),
            explorer=_name(get(config, "explorer", "name")),
            sync_timeout=DEFAULT_SYNC_TIMEOUT if timeout is None else float(timeout),
            checkpoint_dir=Path(directory) if directory else None,
            watches_checkpoints=bool(directory)
            and str(getattr(method, "value", method)).lower() == "checkpoint"
            and get(config, "mode") != "bench",
            remote_samplers=get(config, "trainer", "trainer_type") == "tinker",
            explorer_world_size=None if world_size is None else int(world_size),
            group_name=group if isinstance(group, str) and group else cls.group_name,
        )


def _name(value: object) -> str:
    """A worker name from one in a configuration, where more characters are allowed."""
    if not isinstance(value, str):
        return ""
    printable = "".join(char if char.isprintable() and char != "/" else "-" for char in value)
    return printable.strip()[:_MAX_NAME].strip()
