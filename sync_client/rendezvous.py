"""Meeting the other members of a process group."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sync_client import convert, errors
from sync_client.connection import damaged_answer, new_request_id
from weightsync import names
from weightsync.v1 import rendezvous_pb2 as pb
from weightsync.v1 import rendezvous_pb2_grpc

if TYPE_CHECKING:
    from sync_client.lease import LeasedWorker

# One long poll, shorter than what load balancers cut, and how long its answer may take besides.
_POLL_SECONDS = 60.0
_POLL_MARGIN = 10.0


@dataclass(frozen=True)
class Formed:
    """A group that has formed, as one of its members sees it.

    `rank` is this member's first rank of `world_size`, `version` what the trainer is ready to
    transfer (None: it did not say), `generation` rises each time the group forms, `members` are
    the workers' names in the order of their ranks, the trainer's first.
    """

    rank: int
    world_size: int
    leader_address: str
    leader_port: int
    version: int | None
    generation: int
    members: tuple[str, ...]


async def meet(
    worker: LeasedWorker,
    group: str,
    *,
    version: int | None = None,
    worker_count: int = 0,
    rank_count: int = 1,
    address: str = "",
    port: int = 0,
    timeout: float | None = None,
) -> Formed:
    """Waits until the trainer and the explorers of `group` are all there.

    worker_count: how many workers make the group, the trainer among them; 0: every live one.
    rank_count: how many ranks this worker brings. address, port: where the trainer's store is.
    Raises PeerLost where somebody needed has stopped or was lost, RendezvousTimeout after
    `timeout` seconds (both: retry when they are back), StaleGeneration, ServerUnavailable.
    """
    client = worker.client
    try:
        name = names.rendezvous_name(client.run, group)
    except names.InvalidName as error:
        raise errors.InvalidName(str(error)) from error
    end = None if timeout is None else time.monotonic() + timeout
    # One for all attempts: who did not hear that the group formed is told so again.
    request_id = new_request_id()

    async def once() -> pb.JoinRendezvousResponse:
        left = _POLL_SECONDS if end is None else max(0.0, end - time.monotonic())
        max_wait = min(left, _POLL_SECONDS)
        request = pb.JoinRendezvousRequest(
            name=name,
            worker=worker.resource,
            generation=worker.generation,
            rank_count=rank_count,
            leader_address=address,
            leader_port=port,
            worker_count=worker_count,
            version=version,
            max_wait=convert.duration(max_wait),
            request_id=request_id,
        )
        answer = await client.connection.stub(
            rendezvous_pb2_grpc.RendezvousServiceStub
        ).JoinRendezvous(
            request, timeout=max_wait + _POLL_MARGIN, metadata=client.connection.target.metadata()
        )
        if not isinstance(answer, pb.JoinRendezvousResponse):
            raise damaged_answer()
        return answer

    while True:
        try:
            answer = await worker.leased(lambda: client.connection.retrying(once))
            break
        except errors.RendezvousTimeout:
            if end is not None and time.monotonic() >= end:
                raise
    return Formed(
        rank=answer.rank,
        world_size=answer.world_size,
        leader_address=answer.leader_address,
        leader_port=answer.leader_port,
        version=answer.version if answer.HasField("version") else None,
        generation=answer.rendezvous.generation,
        members=tuple(names.parse_worker(m.worker)[1] for m in answer.rendezvous.members),
    )
