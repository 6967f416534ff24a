"""What a process did, one JSON object a line; it holds whatever a SIGKILL left of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Writes one file. Every event is in it when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **fields: object) -> None:
        """Adds one event."""
        line = json.dumps({"event": event, **fields}) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)


def read(path: Path, event: str) -> list[dict[str, Any]]:
    """The events of one kind, oldest first; whole lines only."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]
