"""Upstream's own Trainer and Explorer loops of Trinity-RFT 0.6.0 over the handle.

The classes are unchanged; every trainer and every explorer is a process of its own, with a small
model whose every value is checked after every load. The same runs over upstream's own Synchronizer
show that what is expected here is what upstream reaches.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from sync_client import SyncClient, WorkerState
from sync_client.trinity.runs import run_id
from tests.servers import ServerProcess, fast_directory, running_server
from tests.until import until
from tests.upstream.loops import launcher, own_actor
from tests.upstream.loops.outcome import Outcome, check
from tests.upstream.loops.runs import STYLES, Combo, Runs, started
from tests.upstream.loops.settings import Settings

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Trinity-RFT 0.6.0 is for Python below 3.13"
)

MATRIX = [Combo(*row) for row in itertools.product(("memory", "checkpoint"), STYLES, (1, 2))]
PAIRS = [combo for combo in MATRIX if combo.explorers == 2]

each_run = pytest.mark.parametrize("combo", MATRIX, ids=str)
each_pair = pytest.mark.parametrize("combo", PAIRS, ids=str)

LEASE_SECONDS = 10.0
"""How long a handle's explorers are counted after the last sign of life."""


# --- nobody dies ---


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Runs]:
    """The matrix over upstream's own Synchronizer."""
    ours, theirs = multiprocessing.Pipe()
    with fast_directory() as directory:
        process = launcher.context().Process(
            target=own_actor.main, args=(theirs, directory / "log"), daemon=True
        )
        process.start()
        theirs.close()
        with started(ours.recv(), MATRIX, own_actor=True) as runs:
            yield runs
        ours.close()
        process.join()
        process.close()


@each_run
def test_what_is_expected_is_what_upstream_reaches(combo: Combo, upstreams: Runs) -> None:
    check(upstreams.settings(combo), upstreams.wait(combo))


@pytest.fixture(scope="module")
def matrix(server: ServerProcess) -> Iterator[Runs]:
    """The matrix over the handle."""
    with started(server.address, MATRIX) as runs:
        yield runs


@each_run
def test_loops_reach_their_versions(combo: Combo, matrix: Runs) -> None:
    check(matrix.settings(combo), matrix.wait(combo))


# --- the server dies ---


@pytest.fixture(scope="module")
def restarted() -> Iterator[Runs]:
    """Runs whose server is killed twice and comes back: while trainers publish, and later while
    explorers wait."""
    with running_server() as server, started(server.address, PAIRS) as runs:
        first = Outcome(runs.settings(PAIRS[0]))
        runs.until(PAIRS[0], lambda: 2 in first.publishing())
        server.restart()
        runs.until(PAIRS[0], lambda: 4 in first.loaded("explorer_0"))
        server.restart()
        yield runs


@each_pair
def test_loops_survive_kill_9_of_the_server(combo: Combo, restarted: Runs) -> None:
    check(restarted.settings(combo), restarted.wait(combo))


# --- an explorer dies ---


def counted(client: SyncClient) -> dict[WorkerState, int]:
    """How many explorers of a run are in each state, but for those that are lost."""
    counts = client.status().explorer_state_counts
    return {state: n for state, n in counts.items() if n and state is not WorkerState.LOST}


def client_of(server: ServerProcess, settings: Settings) -> SyncClient:
    """A client of a run."""
    return SyncClient(server.address, run=run_id(settings.namespace))


class Bereaved(NamedTuple):
    """Runs of which explorer_1 was killed; `left` is after how many seconds the counts had one
    explorer less, `loaded` how often explorer_0 had got new weights when it was killed."""

    runs: Runs
    left: dict[Combo, float]
    loaded: dict[Combo, int]


@pytest.fixture(scope="module")
def bereaved(server: ServerProcess) -> Iterator[Bereaved]:
    """A step takes one batch here, of whichever explorer, so that nobody needs the dead one."""
    changes: dict[str, Any] = {
        "together": False,
        "batches": 8,
        "steps": 8,
        "interval": 1,
        "offset": 0,
    }
    changes["ahead"] = 8  # the trainer may end before the explorer, and then takes no more
    with started(server.address, PAIRS, killed=("explorer_1",), **changes) as runs:
        killed, loaded, left = {}, {}, {}
        for combo in PAIRS:
            outcome = Outcome(runs.settings(combo))
            runs.until(combo, partial(outcome.loaded, "explorer_1"))
            loaded[combo] = len(outcome.loaded("explorer_0"))
            runs.kill(combo, "explorer_1")
            killed[combo] = time.monotonic()
        for combo in PAIRS:
            with client_of(server, runs.settings(combo)) as client:
                until(lambda: sum(counted(client).values()) == 1, 60.0)
            left[combo] = time.monotonic() - killed[combo]
        yield Bereaved(runs, left, loaded)


@each_pair
def test_loops_survive_kill_9_of_an_explorer(
    combo: Combo, bereaved: Bereaved, server: ServerProcess
) -> None:
    settings = bereaved.runs.settings(combo)
    check(settings, bereaved.runs.wait(combo), lost=("explorer_1",))
    assert len(Outcome(settings).loaded("explorer_0")) > bereaved.loaded[combo]
    assert bereaved.left[combo] < LEASE_SECONDS + 3.0
    with client_of(server, settings) as client:
        assert counted(client) == {WorkerState.STOPPED: 1}
