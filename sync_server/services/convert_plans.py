"""Plans as messages."""

from __future__ import annotations

from sync_server.plans import Ways
from sync_server.services import convert
from weightsync.v1 import weights_pb2 as pb


def locations(ways: Ways) -> list[pb.Location]:
    """Best first; the gRPC stream is always the last."""
    found = []
    if ways.shared_memory is not None:
        file = ways.shared_memory
        found.append(
            pb.Location(
                shared_memory=pb.SharedMemoryLocation(
                    path=str(file.path),
                    challenge_path=str(file.challenge.path),
                    challenge=file.challenge.content,
                )
            )
        )
    if ways.http is not None:
        found.append(
            pb.Location(
                http=pb.HttpLocation(
                    url=ways.http.url,
                    ticket=ways.http.ticket,
                    expire_time=convert.timestamp(ways.http.expires_at),
                )
            )
        )
    return [*found, pb.Location(grpc=pb.GrpcLocation())]
