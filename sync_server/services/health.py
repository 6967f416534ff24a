"""grpc.health.v1 for the services, and for the question a load balancer asks of an explorer.

`Check` with service `runs/{run}/workers/{worker}` says whether that worker is alive, and with
`runs/{run}/workers/{worker}@{version}` whether it also serves that version or a later one:

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
        name, at, version = request.service.partition("@")
        try:
            run_id, worker_id = names.parse_worker(name)
            run: Run = self._coordinator.run(run_id)
            wanted = (
                names.parse_version(names.version_name(run_id, int(version)))[1] if at else None
            )
            ready = serves(run, worker_id, wanted, self._coordinator.now())
        except (DomainError, ValueError):
            return health_pb2.HealthCheckResponse(status=_UNKNOWN)
        return health_pb2.HealthCheckResponse(status=_SERVING if ready else _NOT_SERVING)
