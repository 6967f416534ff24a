"""From what the domain raises to what goes over the wire: one table, one interceptor."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from sync_server.domain.errors import DomainError, InvalidArgument, InvalidName, InvalidStream
from weightsync import names
from weightsync.error_details import TRAILER_KEY, ErrorDetails, clip, encode_status
from weightsync.frames import FrameError

_log = structlog.get_logger(__name__)
_Code = grpc.StatusCode

# Reasons that are not here are INTERNAL.
STATUS_CODES: dict[str, grpc.StatusCode] = {
    "INVALID_ARGUMENT": _Code.INVALID_ARGUMENT,
    "INVALID_NAME": _Code.INVALID_ARGUMENT,
    "INVALID_DURATION": _Code.INVALID_ARGUMENT,
    "INVALID_STATE": _Code.INVALID_ARGUMENT,
    "INVALID_STREAM": _Code.INVALID_ARGUMENT,
    "INVALID_HEADER": _Code.INVALID_ARGUMENT,
    "INVALID_PAGE_TOKEN": _Code.INVALID_ARGUMENT,
    "SIZE_MISMATCH": _Code.INVALID_ARGUMENT,
    # Not the caller's mistake but damage on the way, and the same call may succeed.
    "DIGEST_MISMATCH": _Code.DATA_LOSS,
    "BLOB_DAMAGED": _Code.DATA_LOSS,
    "RUN_NOT_FOUND": _Code.NOT_FOUND,
    "WORKER_NOT_FOUND": _Code.NOT_FOUND,
    "VERSION_NOT_FOUND": _Code.NOT_FOUND,
    "VERSION_RETIRED": _Code.NOT_FOUND,
    "TENSOR_NOT_FOUND": _Code.NOT_FOUND,
    "PROGRESS_NOT_FOUND": _Code.NOT_FOUND,
    "RENDEZVOUS_NOT_FOUND": _Code.NOT_FOUND,
    "VERSION_EXISTS": _Code.ALREADY_EXISTS,
    "VERSION_NOT_NEWER": _Code.FAILED_PRECONDITION,
    "VERSION_PINNED": _Code.FAILED_PRECONDITION,
    "VERSION_IN_USE": _Code.FAILED_PRECONDITION,
    "VERSION_ELSEWHERE": _Code.FAILED_PRECONDITION,
    "STALE_GENERATION": _Code.FAILED_PRECONDITION,
    "LEASE_EXPIRED": _Code.FAILED_PRECONDITION,
    "TRAINER_ACTIVE": _Code.FAILED_PRECONDITION,
    "ROLE_MISMATCH": _Code.FAILED_PRECONDITION,
    "ILLEGAL_TRANSITION": _Code.FAILED_PRECONDITION,
    "CONFIG_MISMATCH": _Code.FAILED_PRECONDITION,
    "STATE_MISMATCH": _Code.ABORTED,
    "ETAG_MISMATCH": _Code.ABORTED,
    "UPLOAD_IN_PROGRESS": _Code.ABORTED,
    "PEER_LOST": _Code.ABORTED,
    "SHARD_MISSING": _Code.DEADLINE_EXCEEDED,
    "RENDEZVOUS_TIMEOUT": _Code.DEADLINE_EXCEEDED,
    "REVISION_COMPACTED": _Code.OUT_OF_RANGE,
    "OFFSET_OUT_OF_RANGE": _Code.OUT_OF_RANGE,
    "INVALID_TICKET": _Code.UNAUTHENTICATED,
    "STORAGE_FULL": _Code.RESOURCE_EXHAUSTED,
    "LIMIT_EXCEEDED": _Code.RESOURCE_EXHAUSTED,
    "SHUTTING_DOWN": _Code.UNAVAILABLE,
    "UNIMPLEMENTED": _Code.UNIMPLEMENTED,
}
# After how many seconds a retry makes sense, where that is known.
_RETRY_DELAYS = {"SHUTTING_DOWN": 1.0, "LIMIT_EXCEEDED": 1.0, "UPLOAD_IN_PROGRESS": 1.0}

Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns exceptions of every method into a status with `google.rpc.ErrorInfo`."""

    def __init__(self) -> None:
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of one call, wrapped; every method is wrapped once."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        # Health and reflection have their own manners.
        if handler is None or not method.startswith("/weightsync."):
            return handler
        wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    @staticmethod
    def _wrap(
        handler: grpc.RpcMethodHandler[Any, Any], method: str
    ) -> grpc.RpcMethodHandler[Any, Any]:
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _guard(handler.unary_unary, method, handler.request_deserializer),
                None,
                handler.response_serializer,
            )
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(
                _guard(handler.stream_unary, method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_stream_rpc_method_handler(
            _guard_stream(handler.unary_stream, method, handler.request_deserializer),
            None,
            handler.response_serializer,
        )


# A unary request is parsed inside of the guard: gRPC itself would answer bytes that are no message
# with UNKNOWN and no reason.
def _guard(
    behavior: Any, method: str, parse: Callable[[bytes], Any] | None = None
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def call(request: Any, context: Context) -> Any:
        try:
            if parse is not None:
                request = parse(request)
            result = behavior(request, context)
            return await result if inspect.isawaitable(result) else result
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a status
            await _abort(context, error, method)

    return call


def _guard_stream(
    behavior: Any, method: str, parse: Callable[[bytes], Any] | None = None
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            if parse is not None:
                request = parse(request)
            async for response in behavior(request, context):
                yield response
        except Exception as error:  # noqa: BLE001 - the boundary: everything becomes a status
            await _abort(context, error, method)

    return call


async def _abort(context: Context, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    reason, message, metadata = _describe(error)
    code = STATUS_CODES.get(reason, _Code.INTERNAL)
    if code is _Code.INTERNAL:
        _log.error("fault", method=method, exc_info=error)
    else:
        _log.debug("refused", method=method, reason=reason, message=message)
    details = ErrorDetails(reason, metadata, _RETRY_DELAYS.get(reason))
    number: int = code.value[0]
    trailer = ((TRAILER_KEY, encode_status(number, message, details)),)
    # The text travels twice; trailers over 8 KiB would lose the error.
    await context.abort(code, clip(message, 1024), trailing_metadata=trailer)


def _describe(error: Exception) -> tuple[str, str, dict[str, str]]:
    match error:
        case DomainError():
            return error.reason, error.message, error.metadata
        case names.InvalidName():
            return InvalidName.reason, str(error), {"field": error.field}
        case FrameError():
            return InvalidStream.reason, str(error), {}
        case DecodeError():
            return InvalidArgument.reason, "the request is no message of this method", {}
        case NotImplementedError():
            return "UNIMPLEMENTED", "this server does not implement the call", {}
        case _:
            return "INTERNAL", f"a fault of the server: {type(error).__name__}; see its log", {}
