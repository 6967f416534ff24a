"""grpc.health.v1 for the services, and for the question a load balancer asks of an explorer.

`Check` with service `runs/{run}/workers/{worker}` says whether that worker is alive, and with
`runs/{run}/workers/{worker}@{version}` whether it also serves that version or a later one. Of a
worker whose own name ends in "@" and digits, ask `{worker}@` for the former.

    grpcurl -plaintext -d '{"service":"runs/default/workers/explorer-0@41"}' \\
      localhost:50051 grpc.health.v1.Health/Check
"""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import health, health_pb2

from sync_server.coordinator import Coordinator
from sync_server.domain.errors import DomainError
from sync_server.domain.runs import Run
from sync_server.domain.staleness import serves
from weightsync import names

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health.aio.HealthServicer):
    """The standard servicer, and readiness of workers."""

    def __init__(self, coordinator: Coordinator) -> None:
        super().__init__()
        self._coordinator = coordinator

    async def Check(self, request: Any, context: Any) -> Any:
        """SERVING or not; of a worker that is not known SERVICE_UNKNOWN, as an answer."""
        if not request.service.startswith("runs/"):
            return await super().Check(request, context)
        name, version = _split(request.service)
        try:
            run_id, worker_id = names.parse_worker(name)
            run: Run = self._coordinator.run(run_id)
            wanted = None
            if version:
                _, wanted = names.parse_version(
                    f"{names.run_name(run_id)}/weightVersions/{version}"
                )
            ready = serves(run, worker_id, wanted, self._coordinator.now())
        except (DomainError, ValueError):
            return health_pb2.HealthCheckResponse(status=_UNKNOWN)
        return health_pb2.HealthCheckResponse(status=_SERVING if ready else _NOT_SERVING)


def _split(service: str) -> tuple[str, str]:
    """The worker's name, and the version or "". Names of workers may hold "@" themselves."""
    name, at, version = service.rpartition("@")
    if at and (not version or (version.isascii() and version.isdigit())):
        return name, version
    return service, ""
