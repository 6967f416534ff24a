"""JoinRendezvous, GetRendezvous, LeaveRendezvous on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from sync_client import AsyncSyncClient, AsyncWorker, errors
from sync_client.rendezvous import Formed, meet
from sync_client.types import WorkerState
from tests.servers import ServerProcess, running_server
from tests.services.raw import refused
from weightsync.v1 import rendezvous_pb2 as pb
from weightsync.v1 import rendezvous_pb2_grpc, runs_pb2, runs_pb2_grpc


@pytest.fixture
async def aio(server: ServerProcess, run_id: str) -> AsyncIterator[AsyncSyncClient]:
    """A client of a run of its own."""
    async with AsyncSyncClient(server.address, run_id, retry_for=20) as made:
        yield made


async def waiting(aio: AsyncSyncClient, count: int) -> None:
    """Until that many members wait."""
    for _ in range(500):
        if len((await aio.status()).waiters) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError((await aio.status()).waiters)


def meeting(worker: AsyncWorker, **options: object) -> asyncio.Task[Formed]:
    """A member on its way."""
    return asyncio.create_task(
        meet(worker, "g", **options)  # type: ignore[arg-type]  # options by name
    )


async def test_a_group_forms_and_everybody_has_the_same_answer(aio: AsyncSyncClient) -> None:
    trainer = await aio.register("trainer")
    explorers = [await aio.register("explorer", name=f"e{i}") for i in range(3)]
    tasks = [meeting(explorer, rank_count=2) for explorer in explorers]
    await waiting(aio, 3)
    tasks.append(meeting(trainer, address="10.0.0.1", port=29500, version=7))
    formed = await asyncio.gather(*tasks)
    assert {(f.world_size, f.leader_address, f.leader_port, f.version) for f in formed} == {
        (7, "10.0.0.1", 29500, 7)
    }
    assert sorted(f.rank for f in formed) == [0, 1, 3, 5]
    assert formed[-1].rank == 0
    assert {f.members for f in formed} == {formed[-1].members}
    assert {f.generation for f in formed} == {1}
    again = await asyncio.gather(meeting(trainer), *[meeting(e) for e in explorers])
    assert {f.generation for f in again} == {2}


async def test_who_waits_for_whom_is_said(aio: AsyncSyncClient, channel: grpc.Channel) -> None:
    trainer = await aio.register("trainer", name="t")
    await aio.register("explorer", name="slow")
    task = meeting(trainer, timeout=0.5)
    await waiting(aio, 1)
    (waiter,) = (await aio.status()).waiters
    assert (waiter.worker, waiter.waiting_for) == ("t", "the rendezvous g")
    name = f"runs/{aio.run}/rendezvous/g"
    run = await asyncio.to_thread(
        runs_pb2_grpc.RunServiceStub(channel).GetRun, runs_pb2.GetRunRequest(name=f"runs/{aio.run}")
    )
    found = await asyncio.to_thread(
        rendezvous_pb2_grpc.RendezvousServiceStub(channel).GetRendezvous,
        pb.GetRendezvousRequest(name=name),
    )
    assert list(run.run.rendezvous) == [found.rendezvous]
    assert (found.rendezvous.name, found.rendezvous.complete) == (name, False)
    assert found.rendezvous.status == "t waits for slow"
    assert list(found.rendezvous.missing_workers) == ["slow"]
    with pytest.raises(errors.RendezvousTimeout, match="t waits for slow") as timeout:
        await task
    assert timeout.value.metadata["missing"] == "slow"
    assert (await aio.status()).waiters == ()


async def test_a_peer_that_stops_releases_everybody_at_once(aio: AsyncSyncClient) -> None:
    trainer = await aio.register("trainer", name="t")
    explorer = await aio.register("explorer", name="e")
    task = meeting(trainer, timeout=60)
    await waiting(aio, 1)
    await explorer.set_state(WorkerState.STOPPED)
    with pytest.raises(errors.PeerLost, match="explorer e has stopped"):
        await asyncio.wait_for(task, 5)
    await explorer.set_state(WorkerState.RUNNING)
    task = meeting(explorer, timeout=60)
    await waiting(aio, 1)
    await trainer.close()
    with pytest.raises(errors.PeerLost, match="trainer t has stopped"):
        await asyncio.wait_for(task, 5)


async def test_who_goes_away_is_not_counted(aio: AsyncSyncClient) -> None:
    trainer = await aio.register("trainer", name="t")
    explorer = await aio.register("explorer", name="e")
    first = meeting(explorer)
    await waiting(aio, 1)
    first.cancel()
    await waiting(aio, 0)
    task = meeting(trainer)
    await waiting(aio, 1)
    assert not task.done()
    formed = await meet(explorer, "g")
    assert formed.members == (await task).members == ("t", "e")


async def test_a_stale_generation_may_not_join(aio: AsyncSyncClient) -> None:
    old = await aio.register("trainer", name="t")
    await aio.register("trainer", name="t")
    with pytest.raises(errors.StaleGeneration):
        await meet(old, "g")


async def test_members_meet_across_kill_9(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        async with AsyncSyncClient(server.address, "job", retry_for=20) as aio:
            trainer = await aio.register("trainer", name="t")
            explorer = await aio.register("explorer", name="e")
            task = meeting(trainer, timeout=30)
            await waiting(aio, 1)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            formed = await meet(explorer, "g", timeout=30)
            assert formed.members == (await task).members == ("t", "e")


def test_what_is_wrong_is_refused(server: ServerProcess, channel: grpc.Channel) -> None:
    stub = rendezvous_pb2_grpc.RendezvousServiceStub(channel)
    join, get, leave = stub.JoinRendezvous, stub.GetRendezvous, stub.LeaveRendezvous
    group, worker = "runs/default/rendezvous/g", "runs/default/workers/nobody"
    for call, request, reason in (
        (join, pb.JoinRendezvousRequest(name="x"), "INVALID_NAME"),
        (join, pb.JoinRendezvousRequest(name=group), "INVALID_ARGUMENT"),
        (join, pb.JoinRendezvousRequest(name=group, worker=worker), "WORKER_NOT_FOUND"),
        (
            join,
            pb.JoinRendezvousRequest(name=group, worker="runs/other/workers/x"),
            "INVALID_ARGUMENT",
        ),
        (join, pb.JoinRendezvousRequest(name=group, worker=worker, version=-1), "INVALID_ARGUMENT"),
        (get, pb.GetRendezvousRequest(name=group), "RENDEZVOUS_NOT_FOUND"),
        (get, pb.GetRendezvousRequest(name="runs/none/rendezvous/g"), "RUN_NOT_FOUND"),
        (leave, pb.LeaveRendezvousRequest(name=group, worker=worker), "WORKER_NOT_FOUND"),
    ):
        assert refused(call, request).reason == reason, request
    server.assert_no_faults()
