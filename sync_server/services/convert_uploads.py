"""Uploads as messages."""

from __future__ import annotations

from google.protobuf import json_format

from sync_server.domain.errors import InvalidArgument
from sync_server.domain.versions import Pusher
from sync_server.intake import UploadRequest
from sync_server.services import convert
from sync_server.uploads import Uploaded
from weightsync import names
from weightsync.v1 import weights_pb2 as pb


def request(header: pb.UploadWeightsHeader) -> UploadRequest:
    """What a sender announces. Raises InvalidArgument, InvalidName."""
    if header.shard_count < 0 or (header.shard_count <= 1 and header.shard_index != 0):
        raise InvalidArgument(
            f"shard {header.shard_index} of {header.shard_count}", field="shard_index"
        )
    run_id, number = names.parse_version(header.name)
    pusher = Pusher(convert.own_worker(header.worker, run_id), header.generation)
    return UploadRequest(
        run_id, number, pusher, header.size_bytes, header.digest, header.request_id
    )


def response(run_id: str, uploaded: Uploaded, *, segment: bool = False) -> pb.UploadWeightsResponse:
    """The committed version; `segment`: the client fills segments by itself."""
    return pb.UploadWeightsResponse(
        weight_version=convert.version(run_id, uploaded.version),
        already_existed=uploaded.already_existed,
        next_segment=str(uploaded.next_segment or "") if segment else "",
    )


def as_json(run_id: str, uploaded: Uploaded) -> bytes:
    """The committed version for a client of the bulk port."""
    return json_format.MessageToJson(response(run_id, uploaded), indent=None).encode() + b"\n"
