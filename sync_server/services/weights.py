"""WeightService: versions, their bytes, and waiting for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from sync_server.assembly import Assemblies
from sync_server.catalog import Catalog
from sync_server.coordinator import Coordinator
from sync_server.domain import commands
from sync_server.domain.errors import InvalidDuration, VersionExists
from sync_server.domain.versions import Pusher
from sync_server.domain.waits import Held, Outcome, is_rewound
from sync_server.downloads import plan_download
from sync_server.handed_out import HandedOut
from sync_server.plans import Plans, Ways
from sync_server.references import References
from sync_server.services import convert, convert_plans, convert_uploads
from sync_server.services.upload_stream import UploadStream
from sync_server.uploads import Uploads
from weightsync import names
from weightsync.frames import CHUNK_BYTES, chunk_frame, download_header_frame
from weightsync.v1 import weights_pb2 as pb
from weightsync.v1 import weights_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

DEFAULT_WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS = 3600.0
MAX_PIN_SECONDS = 366 * 86400.0


class WeightServicer(weights_pb2_grpc.WeightServiceServicer):
    """Weight versions. The two byte streams are served raw; see `raw_stream_handlers`."""

    def __init__(
        self,
        coordinator: Coordinator,
        uploads: Uploads,
        catalog: Catalog,
        plans: Plans,
        handed_out: HandedOut,
        assemblies: Assemblies,
        *,
        keep: int,
    ) -> None:
        self._coordinator = coordinator
        self._plans = plans
        self._upload_stream = UploadStream(uploads, handed_out, assemblies)
        self._references = References(coordinator, keep=keep)
        self._catalog = catalog
        self._keep = keep

    def raw_stream_handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """UploadWeights and DownloadWeights on plain bytes; see `weightsync.frames`."""
        return {
            "UploadWeights": grpc.stream_unary_rpc_method_handler(
                self.upload_frames,
                request_deserializer=None,
                response_serializer=pb.UploadWeightsResponse.SerializeToString,
            ),
            "DownloadWeights": grpc.unary_stream_rpc_method_handler(
                self.download_frames,
                request_deserializer=pb.DownloadWeightsRequest.FromString,
                response_serializer=None,
            ),
        }

    async def upload_frames(
        self, frames: AsyncIterator[bytes], context: Context
    ) -> pb.UploadWeightsResponse:
        """Header, then chunks; committed at the end of the stream."""
        return await self._upload_stream.receive(frames)

    async def download_frames(
        self, request: pb.DownloadWeightsRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Header, then chunks from `read_offset` on."""
        run_id, number = names.parse_version(request.name)
        version = self._coordinator.run(run_id).versions.get(number)
        if request.expected_digest and request.expected_digest != version.digest:
            raise VersionExists(
                f"version {number} now has other bytes ({version.digest})",
                version=number,
                digest=version.digest,
            )
        async with self._catalog.reading(version) as blob:
            download = plan_download(blob, request.tensor_names, request.read_offset)
            yield download_header_frame(
                pb.DownloadWeightsHeader(
                    weight_version=convert.version(run_id, version),
                    size_bytes=download.size_bytes,
                    digest=download.digest,
                )
            )
            for piece in download.pieces(request.read_offset, CHUNK_BYTES):
                yield chunk_frame(*piece)

    async def PlanUpload(
        self, request: pb.PlanUploadRequest, context: Context
    ) -> pb.PlanUploadResponse:
        """The ways besides the stream, where bytes are needed at all."""
        upload = convert_uploads.request(request.header)
        if request.header.shard_count > 1:
            return pb.PlanUploadResponse(locations=convert_plans.locations(Ways()))
        version, ways = await self._plans.upload(upload, request.transports)
        return pb.PlanUploadResponse(
            locations=convert_plans.locations(ways),
            weight_version=None if version is None else convert.version(upload.run_id, version),
        )

    async def PlanDownload(
        self, request: pb.PlanDownloadRequest, context: Context
    ) -> pb.PlanDownloadResponse:
        """The ways besides the stream."""
        run_id, number = names.parse_version(request.name)
        version, ways = self._plans.download(run_id, number, request.transports)
        return pb.PlanDownloadResponse(
            weight_version=convert.version(run_id, version), locations=convert_plans.locations(ways)
        )

    async def PublishWeightVersion(
        self, request: pb.PublishWeightVersionRequest, context: Context
    ) -> pb.PublishWeightVersionResponse:
        """A version without bytes, or the notice that nothing is new."""
        run_id, number = names.parse_version(request.name)
        pusher = Pusher(convert.own_worker(request.worker, run_id), request.generation)
        reference = convert.reference(request)
        if reference is not None:
            version = await self._references.publish(
                run_id, number, pusher, reference, request.request_id
            )
            return pb.PublishWeightVersionResponse(weight_version=convert.version(run_id, version))
        await self._coordinator.transact(
            run_id,
            lambda run, now: commands.nothing_new(run, now, pusher=pusher),
            durable=False,
            request=("PublishWeightVersion", request.request_id),
        )
        return pb.PublishWeightVersionResponse()

    async def WaitWeightVersion(
        self, request: pb.WaitWeightVersionRequest, context: Context
    ) -> pb.WaitWeightVersionResponse:
        """The long poll."""
        run_id = names.parse_run(request.parent)
        max_wait = (
            convert.seconds(request.max_wait, "max_wait", MAX_WAIT_SECONDS)
            if request.HasField("max_wait")
            else DEFAULT_WAIT_SECONDS
        )
        after = request.after_version if request.HasField("after_version") else None
        held = Held(after, request.after_digest)
        who = convert.own_worker(request.worker, run_id)
        since = request.after_revision if request.HasField("after_revision") else None
        outcome = await self._coordinator.wait_version(run_id, held, max_wait, who, since)
        run = self._coordinator.run(run_id)
        latest = run.versions.latest()
        reached = outcome is Outcome.REACHED
        return pb.WaitWeightVersionResponse(
            reached=reached,
            weight_version=None if latest is None else convert.version(run_id, latest),
            trainer_state=convert.trainer_state(run),
            rewound=reached and is_rewound(run.versions, held),
            outcome=convert.outcome(outcome),
            revision=run.revision,
        )

    async def GetWeightVersion(
        self, request: pb.GetWeightVersionRequest, context: Context
    ) -> pb.GetWeightVersionResponse:
        """One version."""
        run_id, number = names.parse_version(request.name)
        version = self._coordinator.run(run_id).versions.get(number)
        return pb.GetWeightVersionResponse(weight_version=convert.version(run_id, version))

    async def ListWeightVersions(
        self, request: pb.ListWeightVersionsRequest, context: Context
    ) -> pb.ListWeightVersionsResponse:
        """Newest first."""
        run_id = names.parse_run(request.parent)
        start, stop = convert.page(request.page_size, request.page_token)
        versions = self._coordinator.run(run_id).versions.all()
        return pb.ListWeightVersionsResponse(
            weight_versions=[convert.version(run_id, v) for v in versions[start:stop]],
            next_page_token=convert.next_page_token(stop, len(versions)),
        )

    async def ListTensors(
        self, request: pb.ListTensorsRequest, context: Context
    ) -> pb.ListTensorsResponse:
        """In the order of their bytes."""
        run_id, number = names.parse_version(request.name)
        start, stop = convert.page(request.page_size, request.page_token)
        version = self._coordinator.run(run_id).versions.get(number)
        async with self._catalog.reading(version) as blob:
            entries = blob.layout.tensors
            digests = blob.tensor_digests()
        return pb.ListTensorsResponse(
            tensors=[
                pb.TensorInfo(
                    name=entry.name,
                    dtype=entry.dtype,
                    shape=entry.shape,
                    size_bytes=entry.nbytes,
                    digest=digests[entry.name],
                )
                for entry in entries[start:stop]
            ],
            next_page_token=convert.next_page_token(stop, len(entries)),
        )

    async def PinWeightVersion(
        self, request: pb.PinWeightVersionRequest, context: Context
    ) -> pb.PinWeightVersionResponse:
        """Keeps a version."""
        run_id, number = names.parse_version(request.name)
        ttl = None
        if request.HasField("ttl"):
            ttl = convert.seconds(request.ttl, "ttl", MAX_PIN_SECONDS)
            if not ttl:
                raise InvalidDuration("ttl of 0 s: the pin would end at once", field="ttl")
        version = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.pin(run, now, number=number, owner=request.owner, ttl=ttl),
            request=("PinWeightVersion", request.request_id),
        )
        return pb.PinWeightVersionResponse(weight_version=convert.version(run_id, version))

    async def UnpinWeightVersion(
        self, request: pb.UnpinWeightVersionRequest, context: Context
    ) -> pb.UnpinWeightVersionResponse:
        """Takes a pin back."""
        run_id, number = names.parse_version(request.name)
        version = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.unpin(
                run, now, number=number, owner=request.owner, keep=self._keep
            ),
            request=("UnpinWeightVersion", request.request_id),
        )
        return pb.UnpinWeightVersionResponse(weight_version=convert.version(run_id, version))

    async def RollbackRun(
        self, request: pb.RollbackRunRequest, context: Context
    ) -> pb.RollbackRunResponse:
        """Serves an earlier version again."""
        run_id = names.parse_run(request.name)
        version = await self._coordinator.transact(
            run_id,
            lambda run, now: commands.rollback(run, now, number=request.version),
            request=("RollbackRun", request.request_id),
        )
        return pb.RollbackRunResponse(weight_version=convert.version(run_id, version))

    async def DeleteWeightVersion(
        self, request: pb.DeleteWeightVersionRequest, context: Context
    ) -> pb.DeleteWeightVersionResponse:
        """Deletes a version that is neither served nor pinned."""
        run_id, number = names.parse_version(request.name)
        await self._coordinator.transact(
            run_id,
            lambda run, now: commands.delete(run, now, number=number),
            request=("DeleteWeightVersion", request.request_id),
        )
        return pb.DeleteWeightVersionResponse()
