"""The standard health check (grpc.health.v1), spoken by hand.

Its request holds one text and its answer one number: not worth a dependency of the SDK.
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import grpc.aio

from sync_client.connection import Connection

_CHECK = "/grpc.health.v1.Health/Check"
_SERVICE_TAG = b"\x0a"  # field 1, length-delimited
_STATUS_TAG = 0x08  # field 1, varint


class Health(str, Enum):
    """What the server says of itself, or of one of its services."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"

    def __str__(self) -> str:
        return self.value


_STATUSES = tuple(Health)  # in the order of their numbers


async def check_health(connection: Connection, service: str = "", timeout: float = 5.0) -> Health:
    """The health of `service`, such as "weightsync.v1.WeightService"; "" is the whole server.

    timeout in seconds. Raises ServerUnavailable.
    """
    name = service.encode()
    request = _SERVICE_TAG + _varint(len(name)) + name if name else b""

    async def once() -> bytes:
        method: Any = connection.channel.unary_unary(
            _CHECK, request_serializer=None, response_deserializer=None
        )
        metadata = connection.target.metadata()
        try:
            answer: bytes = await method(request, timeout=timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:  # how the protocol names no such service
                return bytes((_STATUS_TAG, _STATUSES.index(Health.SERVICE_UNKNOWN)))
            raise
        return answer

    return _status(await connection.retrying(once))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _status(answer: bytes) -> Health:
    """Proto3 leaves a zero out, and other fields may follow one day."""
    if len(answer) >= 2 and answer[0] == _STATUS_TAG and answer[1] < len(_STATUSES):
        return _STATUSES[answer[1]]
    return Health.UNKNOWN
