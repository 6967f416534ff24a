"""Who is behind: the pure part, and `wait_fresh` and `wait_converged` on a real server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sync_client import AsyncSyncClient, AsyncWorker, WorkerRole, WorkerState, errors
from sync_client.staleness import RunView, needed
from sync_client.types import RunEvent, VersionInfo, WorkerStatus
from tests.servers import ServerProcess, running_server

LEASE = 1.0


def weights(value: float) -> dict[str, torch.Tensor]:
    """Bytes that only this value has."""
    return {"w": torch.full((4,), value)}


# --- how many are enough


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_a_fraction_of_k_in_n_asks_for_k(numbers: tuple[int, int]) -> None:
    explorers, wanted = numbers
    assert needed(explorers, wanted / explorers, None) == wanted


@given(st.integers(0, 500), st.floats(0, 1))
def test_a_fraction_is_rounded_up_and_never_beyond_all(explorers: int, fraction: float) -> None:
    found = needed(explorers, fraction, None)
    assert fraction * explorers - 1e-6 <= found <= min(explorers, fraction * explorers + 1)


def test_all_are_asked_for_by_default_and_a_count_is_taken_as_it_is() -> None:
    assert [needed(n, None, None) for n in (0, 1, 7)] == [0, 1, 7]
    assert [needed(n, None, 3) for n in (0, 3, 7)] == [3, 3, 3]
    assert needed(100, 0.07, None) == 7


@pytest.mark.parametrize(
    ("fraction", "count"), [(0.5, 1), (1.01, None), (-0.1, None), (math.nan, None), (None, -1)]
)
def test_nonsense_is_refused(fraction: float | None, count: int | None) -> None:
    with pytest.raises(errors.InvalidArgument):
        needed(4, fraction, count)


# --- a view by hand


def explorer(version: int | None, digest: str = "", **fields: Any) -> WorkerStatus:
    """An explorer that reported this."""
    values: dict[str, Any] = {"name": "e", "role": WorkerRole.EXPLORER, **fields}
    values.setdefault("state", WorkerState.RUNNING)
    return WorkerStatus(generation=1, version=version, digest=digest, **values)


@pytest.mark.parametrize(
    ("version", "digest", "lag"),
    [
        (None, "", math.inf),
        (7, "x", 3),
        (10, "new", 0),
        (10, "old", math.inf),  # the same number, before the trainer went back
        (10, "", 0),  # nothing known against it
        (50, "new", math.inf),
    ],
)
def test_lag(version: int | None, digest: str, lag: float) -> None:
    view = RunView({"e": explorer(version, digest)})
    assert view.lag("e") == 0  # there is no version to be behind of
    view.latest = VersionInfo(10, "new", size=1, revision=3)
    assert view.lag("e") == lag
    assert view.lag("who?") == math.inf
    assert view.behind(7) == (["e"] if lag == math.inf else [])


def test_who_is_gone_is_not_behind_and_a_trainer_never() -> None:
    view = RunView(latest=VersionInfo(2, "new", size=1, revision=1))
    for name, state in {
        "b": WorkerState.RUNNING,
        "a": WorkerState.WAITING_SYNC,
        "lost": WorkerState.LOST,
        "stopped": WorkerState.STOPPED,
    }.items():
        view.workers[name] = explorer(None, name=name, state=state)
    view.workers["trainer"] = explorer(None, name="trainer", role=WorkerRole.TRAINER)
    assert view.behind(1) == ["a", "b"]


def test_only_a_new_version_or_a_rollback_changes_what_is_latest() -> None:
    view = RunView()
    two = VersionInfo(2, "b", size=1, revision=12)
    view.apply(RunEvent(12, 0.0, "weight_version", version=two))
    assert view.latest is two
    pinned = VersionInfo(1, "a", size=1, revision=11)
    view.apply(RunEvent(13, 0.0, "weight_version", version=pinned))
    assert view.latest is two
    view.apply(RunEvent(14, 0.0, "retired_weight_version", name="2", detail={"digest": "other"}))
    assert view.latest is two
    view.apply(RunEvent(15, 0.0, "rolled_back", version=pinned))
    assert view.latest is pinned
    view.apply(RunEvent(16, 0.0, "retired_weight_version", name="1", detail={"digest": "a"}))
    assert view.latest is None


# --- on a real server


@pytest.fixture
async def run(server: ServerProcess, run_id: str) -> AsyncIterator[AsyncSyncClient]:
    """A client of a run of its own."""
    async with AsyncSyncClient(server.address, run=run_id, retry_for=5.0) as client:
        yield client


async def explorers(run: AsyncSyncClient, count: int, **options: Any) -> list[AsyncWorker]:
    """e0, e1 and so on."""
    return [await run.register("explorer", f"e{index}", **options) for index in range(count)]


async def still_waiting(task: asyncio.Task[Any], run: AsyncSyncClient) -> None:
    """Nothing that the server said until now ended the wait."""
    await run.status()
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done


async def test_converged_means_all_live_explorers(run: AsyncSyncClient) -> None:
    trainer = await run.register("trainer")
    e = await explorers(run, 3)
    one = await trainer.push(weights(1), 1)
    assert await trainer.wait_converged(1, timeout=0) == ["e0", "e1", "e2"]
    waiting = asyncio.ensure_future(trainer.wait_converged(1, timeout=20))
    for worker in e[:2]:
        await worker.report_applied(1, one.digest)
    await still_waiting(waiting, run)
    # Who is behind is told at the timeout, too.
    assert await trainer.wait_converged(1, timeout=0.2) == ["e2"]
    assert await trainer.wait_converged(1, fraction=0.6, timeout=5) == ["e2"]
    assert await trainer.wait_converged(1, count=2, timeout=5) == ["e2"]
    two = await trainer.push(weights(2), 2)
    await e[2].report_applied(2, two.digest)  # a later one will do
    assert await waiting == []
    assert await trainer.wait_converged(2, count=1) == ["e0", "e1"]


async def test_a_fraction_is_of_those_who_are_there(run: AsyncSyncClient) -> None:
    trainer = await run.register("trainer")
    e = await explorers(run, 4)
    one = await trainer.push(weights(1), 1)
    waiting = asyncio.ensure_future(trainer.wait_converged(1, fraction=0.5, timeout=20))
    await e[0].report_applied(1, one.digest)
    await still_waiting(waiting, run)
    await e[3].close()
    await e[2].close()  # half of two
    assert await waiting == ["e1"]
    with pytest.raises(errors.InvalidArgument):
        await trainer.wait_converged(1, fraction=0.5, count=2)


async def test_a_lost_explorer_holds_nobody_up(run: AsyncSyncClient, server: ServerProcess) -> None:
    trainer = await run.register("trainer")
    (kept,) = await explorers(run, 1)
    one = await trainer.push(weights(1), 1)
    await kept.report_applied(1, one.digest)
    async with AsyncSyncClient(server.address, run=run.run) as other:
        dying = await other.register("explorer", "dying", lease=LEASE)
        waiting = asyncio.ensure_future(trainer.wait_converged(1, timeout=20))
        await still_waiting(waiting, run)
        await dying._heartbeat.stop()  # as a process that hangs
        assert await waiting == []
        states = {worker.name: worker.state for worker in (await run.status()).workers}
        assert states["dying"] is WorkerState.LOST


async def test_a_count_waits_for_those_who_are_not_there_yet(run: AsyncSyncClient) -> None:
    trainer = await run.register("trainer")
    one = await trainer.push(weights(1), 1)
    assert await trainer.wait_converged(1) == []  # nobody is behind
    waiting = asyncio.ensure_future(trainer.wait_converged(1, count=1, timeout=20))
    await still_waiting(waiting, run)
    (late,) = await explorers(run, 1)
    await late.report_applied(1, one.digest)
    assert await waiting == []


async def test_after_a_rewind_what_was_superseded_does_not_count(run: AsyncSyncClient) -> None:
    trainer = await run.register("trainer")
    e = await explorers(run, 2)
    for number in (40, 41, 50):
        info = await trainer.push(weights(number), number)
        if number == 41:
            await e[1].report_applied(41, info.digest)
        elif number == 50:
            await e[0].report_applied(50, info.digest)
    assert await e[0].wait_fresh(0, timeout=5)
    assert await e[1].wait_fresh(9, timeout=5)
    # The trainer crashed, and its successor goes on from 40, with other bytes.
    successor = await run.register("trainer")
    again = await successor.push(weights(41.5), 41)
    assert await successor.wait_converged(41, timeout=0) == ["e0", "e1"]
    assert not await e[0].wait_fresh(1000, timeout=0)
    assert not await e[1].wait_fresh(1000, timeout=0)
    assert [await run.ready(worker.name, 41) for worker in e] == [False, False]
    waiting = asyncio.ensure_future(successor.wait_converged(41, timeout=20))
    for worker in e:
        await still_waiting(waiting, run)
        await worker.report_applied(41, again.digest)
    assert await waiting == []
    assert await e[0].wait_fresh(0, timeout=5)


async def test_fresh_waits_for_the_report_and_not_for_the_push(run: AsyncSyncClient) -> None:
    trainer = await run.register("trainer")
    (worker,) = await explorers(run, 1)
    assert await worker.wait_fresh(0, timeout=5)  # no version: nothing to be behind of
    infos = [await trainer.push(weights(number), number) for number in (1, 2, 3)]
    assert not await worker.wait_fresh(2, timeout=0.1)
    waiting = asyncio.ensure_future(worker.wait_fresh(1, timeout=20))
    await worker.report_applied(1, infos[0].digest)
    assert await worker.wait_fresh(2, timeout=5)
    await still_waiting(waiting, run)
    await worker.report_applied(2, infos[1].digest)
    assert await waiting
    # And it is stale again as the trainer goes on.
    await trainer.push(weights(4), 4)
    assert not await worker.wait_fresh(1, timeout=0.1)


@pytest.mark.parametrize("max_lag", [-1, math.nan])
async def test_a_lag_below_zero_is_refused_at_once(run: AsyncSyncClient, max_lag: Any) -> None:
    (worker,) = await explorers(run, 1)
    with pytest.raises(errors.InvalidArgument, match="max_lag"):
        await worker.wait_fresh(max_lag)


async def test_waiting_goes_on_through_a_restart(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        async with AsyncSyncClient(server.address, retry_for=20.0) as run:
            trainer = await run.register("trainer", lease=2.0)
            (worker,) = await explorers(run, 1, lease=2.0)
            one = await trainer.push(weights(1), 1)
            waiting = asyncio.ensure_future(trainer.wait_converged(1, timeout=30))
            await still_waiting(waiting, run)
            await asyncio.get_running_loop().run_in_executor(None, server.restart)
            await worker.report_applied(1, one.digest)
            assert await waiting == []
