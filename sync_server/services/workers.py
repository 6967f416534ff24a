"""WorkerService: registration, leases, states, reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc.aio

from sync_server.catalog import Catalog
from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.applied import Held, compare
from sync_server.domain.errors import (
    InvalidArgument,
    VersionElsewhere,
    VersionNotFound,
    VersionRetired,
)
from sync_server.domain.leases import MAX_LEASE_SECONDS
from sync_server.services import convert
from weightsync import names
from weightsync.digests import check_version_digest
from weightsync.v1 import workers_pb2 as pb
from weightsync.v1 import workers_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerServicer(workers_pb2_grpc.WorkerServiceServicer):
    """Who takes part in a run."""

    def __init__(self, coordinator: Coordinator, catalog: Catalog) -> None:
        self._coordinator = coordinator
        self._catalog = catalog

    async def RegisterWorker(
        self, request: pb.RegisterWorkerRequest, context: Context
    ) -> pb.RegisterWorkerResponse:
        """Registers, takes over, or resumes."""
        run_id = names.parse_run(request.parent)
        worker_id = names.check_worker_id(request.worker_id)
        role = convert.role(request.role)
        lease = (
            convert.seconds(request.lease_duration, "lease_duration", MAX_LEASE_SECONDS)
            if request.HasField("lease_duration")
            else None
        )
        resume = request.resume_generation if request.HasField("resume_generation") else None
        if resume is not None and resume < 1:
            raise InvalidArgument(
                f"resume_generation {resume}: 1 or more", field="resume_generation"
            )
        worker = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.register(
                run,
                now,
                worker_id=worker_id,
                role=role,
                lease_seconds=lease,
                resume_generation=resume,
            ),
            create=True,
            request=("RegisterWorker", request.request_id),
        )
        return pb.RegisterWorkerResponse(worker=convert.worker(run_id, worker))

    async def RenewLease(
        self, request: pb.RenewLeaseRequest, context: Context
    ) -> pb.RenewLeaseResponse:
        """A heartbeat."""
        run_id, worker_id = names.parse_worker(request.name)
        worker = self._coordinator.renew_lease(run_id, worker_id, request.generation)
        return pb.RenewLeaseResponse(worker=convert.worker(run_id, worker))

    async def SetWorkerState(
        self, request: pb.SetWorkerStateRequest, context: Context
    ) -> pb.SetWorkerStateResponse:
        """Moves along the transition table."""
        run_id, worker_id = names.parse_worker(request.name)
        state = convert.state(request.state)
        expected = convert.state(request.expected_state) if request.expected_state else None
        worker = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.set_state(
                run,
                now,
                worker_id=worker_id,
                generation=request.generation,
                state=state,
                expected=expected,
            ),
            # A lost state is mended by the next heartbeat; syncing each would cost more than it.
            durable=False,
            request=("SetWorkerState", request.request_id),
        )
        return pb.SetWorkerStateResponse(worker=convert.worker(run_id, worker))

    async def ListWorkers(
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        """By name."""
        run_id = names.parse_run(request.parent)
        start, stop = convert.page(request.page_size, request.page_token)
        workers = self._coordinator.run(run_id).workers.all()
        return pb.ListWorkersResponse(
            workers=[convert.worker(run_id, worker) for worker in workers[start:stop]],
            next_page_token=convert.next_page_token(stop, len(workers)),
        )

    async def DeregisterWorker(
        self, request: pb.DeregisterWorkerRequest, context: Context
    ) -> pb.DeregisterWorkerResponse:
        """Leaves at once."""
        run_id, worker_id = names.parse_worker(request.name)
        await self._coordinator.transact(
            run_id,
            lambda run, now: commands.deregister(
                run, now, worker_id=worker_id, generation=request.generation
            ),
            request=("DeregisterWorker", request.request_id),
        )
        return pb.DeregisterWorkerResponse()

    async def ReportAppliedVersion(
        self, request: pb.ReportAppliedVersionRequest, context: Context
    ) -> pb.ReportAppliedVersionResponse:
        """What an explorer has loaded."""
        run_id, worker_id = names.parse_worker(request.name)
        try:
            digest = check_version_digest(request.digest)
        except ValueError as error:
            raise InvalidArgument(str(error), field="digest") from error
        differences = await self._differences(run_id, request)
        worker = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.report_applied(
                run,
                now,
                worker_id=worker_id,
                generation=request.generation,
                version=request.version,
                digest=digest,
                differences=differences,
            ),
            request=("ReportAppliedVersion", request.request_id),
        )
        return pb.ReportAppliedVersionResponse(worker=convert.worker(run_id, worker))

    async def _differences(
        self, run_id: str, request: pb.ReportAppliedVersionRequest
    ) -> Sequence[str]:
        """How the reported tensors differ from those of the version, if both are known."""
        if not request.tensors:
            return ()
        held = [Held(t.name, t.dtype, tuple(t.shape), t.digest) for t in request.tensors]
        try:
            version = self._coordinator.run(run_id).versions.get(request.version)
            async with self._catalog.reading(version) as blob:
                digests = blob.tensor_digests()
                wanted = [
                    Held(e.name, e.dtype, e.shape, digests[e.name]) for e in blob.layout.tensors
                ]
        except (VersionNotFound, VersionRetired, VersionElsewhere):
            return ()
        return compare(wanted, held)
