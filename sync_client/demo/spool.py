"""The demo's own way back: samples as files in a directory. It knows nothing of weights."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

_SUFFIX = ".npz"


@dataclass(frozen=True)
class Batch:
    """Samples of one explorer.

    tokens: int64 (batch, 1 + answer). log_probs, rewards: float32 (batch, answer). `version` is
    that of the weights they were sampled with; None: the explorer's own random start.
    """

    explorer: str
    number: int
    version: int | None
    tokens: torch.Tensor
    log_probs: torch.Tensor
    rewards: torch.Tensor


class Spool:
    """A directory of batches: explorers put, the trainer takes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, batch: Batch) -> None:
        """Adds a batch; a reader sees all of it or nothing."""
        content = io.BytesIO()
        np.savez(
            content,
            explorer=np.array(batch.explorer),
            number=np.array(batch.number),
            version=np.array([] if batch.version is None else [batch.version], np.int64),
            tokens=batch.tokens.numpy(),
            log_probs=batch.log_probs.numpy(),
            rewards=batch.rewards.numpy(),
        )
        name = f"{batch.number:06d}-{batch.explorer}{_SUFFIX}"
        partial = self._directory / f".{name}.partial"
        partial.write_bytes(content.getvalue())
        partial.replace(self._directory / name)

    def take(self) -> Sequence[Batch]:
        """Removes and gives all that is there, the lowest numbers first."""
        batches = []
        for path in sorted(self._directory.glob(f"[!.]*{_SUFFIX}")):
            batches.append(_load(path.read_bytes()))
            path.unlink()
        return batches


def _load(content: bytes) -> Batch:
    with np.load(io.BytesIO(content)) as file:
        version = file["version"].tolist()
        return Batch(
            explorer=str(file["explorer"]),
            number=int(file["number"]),
            version=version[0] if version else None,
            tokens=torch.from_numpy(file["tokens"]),
            log_probs=torch.from_numpy(file["log_probs"]),
            rewards=torch.from_numpy(file["rewards"]),
        )
