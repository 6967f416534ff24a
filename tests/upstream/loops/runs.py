"""Many runs at a time: a trainer's step takes a second, which is nearly all sleep."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers import fast_directory
from tests.until import until
from tests.upstream.loops import launcher
from tests.upstream.loops.settings import Settings

STYLES: dict[str, dict[str, Any]] = {
    "fixed": {},
    # Steps 2, 4 and 6 are published, and asked for after batches 3 and 5.
    "trainer_driven": {"interval": 2, "offset": 1, "save_interval": 4},
    "explorer_driven": {"ahead": 2},
    "fully_async": {"staleness": 2},
}
"""What a run of each style is made of, besides the defaults of Settings."""


class Combo(NamedTuple):
    """Which run."""

    method: str
    style: str
    explorers: int

    def __str__(self) -> str:
        return f"{self.method}-{self.style}-{self.explorers}"


class Runs:
    """Runs that go on at the same time, each driven by a thread. Made by `started`."""

    def __init__(
        self, directory: Path, address: str, combos: list[Combo], changes: dict[str, Any]
    ) -> None:
        self._directory = directory
        self._address = address
        self._changes = changes
        self._threads = ThreadPoolExecutor(len(combos))
        self._launched = {combo: threading.Event() for combo in combos}
        self._launchers: dict[Combo, launcher.Launcher] = {}
        self._ends: dict[Combo, Future[None]] = {}

    def start(self, killed: tuple[str, ...]) -> None:
        """Begins all of them."""
        for combo in self._launched:
            self._ends[combo] = self._threads.submit(self._run, combo, killed)

    def settings(self, combo: Combo) -> Settings:
        """What a run is made of."""
        name = f"{self._directory.name}-{combo}"
        made = {**STYLES[combo.style], **self._changes}
        return Settings(
            directory=self._directory / name,
            namespace=f"loops/{name}",  # a Ray namespace can be that, a run id cannot
            server=self._address,
            method=combo.method,
            style=combo.style,
            explorers=combo.explorers,
            **made,
        )

    def kill(self, combo: Combo, name: str) -> None:
        """SIGKILL for one process of a run."""
        self._launched[combo].wait()
        self._launchers[combo].processes[name].kill()

    def until(self, combo: Combo, look: Callable[[], object]) -> None:
        """Until something is seen in a run that goes on. Raises AssertionError where it ends
        before, or what went wrong in it."""
        end = self._ends[combo]
        until(lambda: end.done() or look(), launcher.RUN_SECONDS)
        if end.done():
            end.result()
            raise AssertionError(f"{combo} ended too early")

    def wait(self, combo: Combo) -> launcher.End:
        """Until it is over. Raises what went wrong in it."""
        self._ends[combo].result()
        return self._launchers[combo].end

    def close(self) -> None:
        """Waits for all of them."""
        self._threads.shutdown()

    def _run(self, combo: Combo, killed: tuple[str, ...]) -> None:
        try:
            with launcher.launched(self.settings(combo), killed=killed) as made:
                self._launchers[combo] = made
                self._launched[combo].set()
                made.run()
        finally:
            self._launched[combo].set()


@contextlib.contextmanager
def started(
    address: str, combos: list[Combo], *, killed: tuple[str, ...] = (), **changes: Any
) -> Iterator[Runs]:
    """Runs over the synchronizer at `address`, of which nothing is left at the end of the block.

    `killed` are the names of the processes that the test will kill; `changes` go to Settings.
    """
    with fast_directory() as directory:
        made = Runs(directory, address, combos, changes)
        try:
            made.start(killed)
            yield made
        finally:
            made.close()
