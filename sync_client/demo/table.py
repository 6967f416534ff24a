"""What the demo shows while it runs: a live table on a terminal, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sync_client.demo.story import Story

if TYPE_CHECKING:
    from sync_client import RunStatus, WorkerStatus

_DRAW_SECONDS = 0.15
_LINE_SECONDS = 2.0
_BARS = "▁▂▃▄▅▆▇█"
_SPARKS = 32
_LEAST_SPARKS = 8
_OTHER_COLUMNS = 80  # what the table takes without them
_STATES = {"RUNNING": "green", "WAITING_SYNC": "cyan", "LOST": "red"}


class Show:
    """Shows a story as it goes on. steps: how many there will be. err: on standard error."""

    def __init__(self, steps: int, *, err: bool) -> None:
        self._steps = steps
        self._err = err
        self._console = Console(stderr=err, highlight=False)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._shown_at = self._began

    def __enter__(self) -> Show:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, story: Story, status: RunStatus | None) -> None:
        """Draws the table or prints a line, if it is time for one."""
        pause = _LINE_SECONDS if self._live is None else _DRAW_SECONDS
        if time.monotonic() - self._shown_at < pause:
            return
        self._shown_at = time.monotonic()
        if self._live is not None:
            self._live.update(self._table(story, status), refresh=True)
        else:
            click.echo(self._line(story), err=self._err)

    def end(self, story: Story) -> None:
        """Draws the last state, in which everybody has left."""
        if self._live is not None:
            self._live.update(self._table(story, None, over=True), refresh=True)
        else:
            click.echo(self._line(story), err=self._err)

    def _line(self, story: Story) -> str:
        parts = [f"{self._seconds():5.1f} s", self._step(story)]
        for name in story.explorers:
            reward = story.reward(name)
            if reward is None:
                parts.append(f"{name} starting")
            else:
                version, lag = _version_and_lag(story, name)
                parts.append(f"{name} version {version} lag {lag} reward {reward:.2f}")
        return "  ".join(parts)

    def _table(self, story: Story, status: RunStatus | None, *, over: bool = False) -> Table:
        table = Table(
            box=box.ROUNDED,
            title=Text(f"weightsync demo   {self._step(story)}   {self._seconds():.1f} s"),
            title_style="bold",
            header_style="bold",
        )
        for column in ("who", "state"):
            table.add_column(column, no_wrap=True)
        for column in ("version", "lag", "reward", "MB/s"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("says", no_wrap=True)
        sparks = min(_SPARKS, self._console.width - _OTHER_COLUMNS)
        if sparks >= _LEAST_SPARKS:
            table.add_column("reward so far", min_width=sparks, no_wrap=True)
        known = {} if status is None else {worker.name: worker for worker in status.workers}
        newest = "-" if story.newest is None else str(story.newest)
        state = _state(known.get("trainer"), story.newest is not None, over)
        table.add_row("trainer", state, newest, "", "", _number(story.push_speed(), ".0f"))
        for name in story.explorers:
            acts = story.acts[name]
            version, lag = _version_and_lag(story, name)
            cells: list[str | Text] = [
                name,
                _state(known.get(name), bool(acts), over),
                version,
                lag,
                _number(story.reward(name), ".2f"),
                _number(story.pull_speed(name), ".0f"),
                acts[-1].text if acts else "",
            ]
            if sparks >= _LEAST_SPARKS:
                cells.append(Text(_sparks([act.reward for act in acts], sparks), "green"))
            table.add_row(*cells)
        return table

    def _step(self, story: Story) -> str:
        return f"step {story.newest or 0}/{self._steps}"

    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _version_and_lag(story: Story, name: str) -> tuple[str, str]:
    """An explorer's version, and how far the newest is ahead, for people."""
    pulls = story.pulls[name]
    if not pulls or story.newest is None:
        return "-", "-"
    return str(pulls[-1].version), str(max(0, story.newest - pulls[-1].version))


def _state(worker: WorkerStatus | None, begun: bool, over: bool) -> Text:
    """What the server says; a process that it does not know yet is starting."""
    if over or (worker is None and begun):
        return Text("done", "dim")
    if worker is None:
        return Text("starting", "dim")
    return Text(worker.state.value, _STATES.get(worker.state.value, ""))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _sparks(values: list[float], width: int) -> str:
    """All values, from 0 to 1, as one line of bars: each the mean of its share of them."""
    width = min(width, len(values))
    shares = [
        values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)
    ]
    top = len(_BARS) - 1
    return "".join(_BARS[round(top * sum(share) / len(share))] for share in shares)
