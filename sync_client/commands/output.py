"""What commands print: JSON documents for programs, tables and lines for people."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

import click

from sync_client.types import VersionInfo, VersionSource

_DECIMAL = 1000.0
_PIPE_COLUMNS = 1000  # a table that is read by a program must not be folded


def plain(value: object) -> object:
    """Records, enums and paths as what JSON has; keys are the records' field names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def fields(value: object) -> dict[str, object]:
    """A record as the mapping that `plain` makes of it."""
    found = plain(value)
    assert isinstance(found, dict)
    return found


def document(value: object) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(plain(value), indent=2))


def line(value: object) -> None:
    """Prints one JSON object in one line, at once."""
    click.echo(json.dumps(plain(value)))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: column names, then the cells as they are."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _PIPE_COLUMNS, highlight=False)
    # A bare Text: the name of a worker may look like markup.
    shown = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    # Rendered first: click knows what a closed pipe and a file want.
    with console.capture() as captured:
        console.print(shown)
    click.echo("\n".join(text.rstrip() for text in captured.get().splitlines()))


def size(count: float) -> str:
    """Bytes for people, in decimal units as MB/s are: "90.9 MB"."""
    if count < _DECIMAL:
        return f"{count:.0f} B"
    units = ("kB", "MB", "GB", "TB")
    power = min(int(math.log(count, _DECIMAL) + 1e-9), len(units))
    return f"{count / _DECIMAL**power:.3g} {units[power - 1]}"


def bytes_of(info: VersionInfo) -> str:
    """How much a version is, or where it is if not here."""
    if info.source is VersionSource.WEIGHTSYNC:
        return size(info.size)
    return f"in {info.source} {info.reference}"


def age(since: float) -> str:
    """How long ago a Unix time was: "12s", "3m", "5h", "2d"."""
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def clock(when: float) -> str:
    """A Unix time as the local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(when))


def rate(count: int, seconds: float) -> float:
    """MB/s."""
    return count / 1e6 / seconds if seconds > 0 else 0.0


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A callback (bytes done, bytes in all) that draws on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
