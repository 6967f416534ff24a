"""RunService: the run as a whole, and every change as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain import runs as changes
from sync_server.domain.runs import Event
from sync_server.meetings import MeetingRooms
from sync_server.services import convert, convert_rendezvous
from sync_server.waiting import Parked
from weightsync import names
from weightsync.v1 import runs_pb2 as pb
from weightsync.v1 import runs_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class RunServicer(runs_pb2_grpc.RunServiceServicer):
    """Training jobs as a whole."""

    def __init__(self, coordinator: Coordinator, rooms: MeetingRooms) -> None:
        self._coordinator = coordinator
        self._rooms = rooms

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """One run."""
        return pb.GetRunResponse(run=self._run(names.parse_run(request.name)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """All runs."""
        start, stop = convert.page(request.page_size, request.page_token)
        runs = self._coordinator.runs()
        return pb.ListRunsResponse(
            runs=[self._run(run.run_id) for run in runs[start:stop]],
            next_page_token=convert.next_page_token(stop, len(runs)),
        )

    async def WatchRun(
        self, request: pb.WatchRunRequest, context: Context
    ) -> AsyncIterator[pb.WatchRunResponse]:
        """A snapshot, then every change; or every change after a revision."""
        run_id = names.parse_run(request.name)
        run = self._coordinator.run(run_id)
        if request.HasField("after_revision"):
            seen = request.after_revision
            run.events_after(seen)  # refuse at once what can't be resumed
        else:
            seen = run.revision
            now = convert.timestamp(self._coordinator.now().wall)
            yield pb.WatchRunResponse(revision=seen, event_time=now, snapshot=self._run(run_id))

        def news() -> bool | None:
            return True if run.revision > seen else None

        parked = Parked(("events", run_id), "", "", 0.0)
        while True:
            for event in run.events_after(seen):
                yield _event(run_id, event)
                seen = event.revision
            await self._coordinator.room.wait(parked, news, None)

    async def CheckRunConfig(
        self, request: pb.CheckRunConfigRequest, context: Context
    ) -> pb.CheckRunConfigResponse:
        """Keeps the first configuration, and compares later ones with it."""
        run_id = names.parse_run(request.name)
        worker_id = convert.own_worker(request.worker, run_id)
        config = convert.plain(request.config)
        stored, found = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.check_config(
                run,
                now,
                worker_id=worker_id,
                config=config,
                accept_changes=request.accept_changes,
            ),
            create=True,
            request=("CheckRunConfig", request.request_id),
        )
        return pb.CheckRunConfigResponse(
            stored=stored,
            differences=[
                pb.ConfigDifference(
                    key=item.key,
                    old_value=convert.value(item.old),
                    new_value=convert.value(item.new),
                )
                for item in found
            ],
        )

    def _run(self, run_id: str) -> pb.Run:
        run = self._coordinator.run(run_id)
        parked = [*self._coordinator.parked(run_id), *self._rooms.parked(run_id)]
        message = convert.run(run, sorted(parked, key=lambda wait: wait.since))
        workers = run.workers.all()
        message.rendezvous.extend(
            convert_rendezvous.meeting(run_id, meeting, workers)
            for meeting in self._rooms.of(run_id).all()
            if meeting.members
        )
        return message


def _event(run_id: str, event: Event) -> pb.WatchRunResponse:
    message = pb.WatchRunResponse(revision=event.revision, event_time=convert.timestamp(event.at))
    change = event.change
    match change:
        case changes.WorkerChanged(worker):
            message.worker.CopyFrom(convert.worker(run_id, worker))
        case changes.WorkerRemoved(worker_id):
            message.deregistered_worker = names.worker_name(run_id, worker_id)
        case changes.VersionCommitted(version) | changes.VersionChanged(version):
            message.weight_version.CopyFrom(convert.version(run_id, version))
        case changes.VersionRemoved(number, digest, _, cause):
            message.retired_weight_version.CopyFrom(
                pb.RetiredWeightVersion(
                    name=names.version_name(run_id, number), digest=digest, cause=cause.value
                )
            )
        case changes.NothingNew(worker_id):
            who = names.worker_name(run_id, worker_id) if worker_id else ""
            message.nothing_new.CopyFrom(pb.NothingNew(worker=who))
        case changes.ProgressSaved(progress):
            message.saved_progress = names.progress_name(run_id, progress.record_id)
        case changes.ConfigSet(worker_id):
            who = names.worker_name(run_id, worker_id) if worker_id else ""
            message.config_changed.CopyFrom(pb.ConfigChanged(worker=who))
        case changes.RunCreated():
            message.created.SetInParent()
    return message
