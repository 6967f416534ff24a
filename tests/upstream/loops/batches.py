"""Batches on their way from explorers to the trainer: files, so that any process may die.

A batch is one file; it is there whole or not at all, and whoever takes it moves it away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.until import until_async

PATIENCE_SECONDS = 60.0
"""How long to wait for the other side, which takes a second or two."""


class Batch(NamedTuple):
    """`number` counts from 1 for each explorer; `version` is that of the model that made it."""

    explorer: str
    number: int
    version: int


class Pool:
    """The batches that wait."""

    def __init__(self, directory: Path) -> None:
        self._waiting = directory / "waiting"
        self._taken = directory / "taken"
        for made in (self._waiting, self._taken):
            made.mkdir(parents=True, exist_ok=True)

    def put(self, batch: Batch) -> None:
        """Adds one."""
        name = _name(batch.number, batch.explorer)
        half = self._taken / f"{name}.part"
        half.write_text(json.dumps(batch))
        half.replace(self._waiting / name)

    def waiting(self, explorer: str = "*") -> list[Path]:
        """The files that wait, those of low numbers first."""
        return sorted(self._waiting.glob(f"*.{explorer}.json"))

    async def take(self, number: int, explorers: Sequence[str]) -> list[Batch]:
        """Waits for the batches of that number of these explorers, or, where none are given, for
        one of any number and explorer, and takes them."""

        def wanted() -> list[Path]:
            if not explorers:
                return self.waiting()[:1]
            files = [self._waiting / _name(number, explorer) for explorer in explorers]
            return files if all(file.exists() for file in files) else []

        taken = []
        for file in await until_async(wanted, PATIENCE_SECONDS):
            taken.append(Batch(*json.loads(file.read_text())))
            file.replace(self._taken / file.name)
        return taken


def _name(number: int, explorer: str) -> str:
    return f"{number:04}.{explorer}.json"
