"""google.rpc.Status with one ErrorInfo and maybe a RetryInfo, as bytes for a gRPC trailer.

The wire format is that of googleapis (google/rpc/status.proto and error_details.proto), so any
gRPC client can read it, but googleapis-common-protos is not needed: the SDK shares an environment
with vLLM and Ray, and depends on as little as it can. The messages are described here in a
descriptor pool of their own, so that they cannot clash with the real ones in the default pool.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory
from google.protobuf.message import DecodeError

__all__ = [
    "DOMAIN",
    "MAX_STATUS_BYTES",
    "TRAILER_KEY",
    "ErrorDetails",
    "clip",
    "decode_status",
    "encode_status",
]

DOMAIN = "weightsync"
"""`ErrorInfo.domain` of every error of this service."""

TRAILER_KEY = "grpc-status-details-bin"
"""The trailing-metadata key under which gRPC carries the encoded status."""

MAX_STATUS_BYTES = 4096
"""No encoded status is longer: gRPC drops the real error of a call whose trailers are over 8 KiB,
at random from there to 16 KiB (RESOURCE_EXHAUSTED, "received metadata size exceeds soft limit"),
and the message travels in the trailers a second time."""

_TYPE_URL = "type.googleapis.com/"
_ERROR_INFO = "google.rpc.ErrorInfo"
_RETRY_INFO = "google.rpc.RetryInfo"
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_MAX_DELAY = 315_576_000_000  # seconds: what google.protobuf.Duration may hold, 10,000 years
_MAX_MESSAGE_BYTES = 1024
_MAX_VALUE_BYTES = 512
_MAX_DETAIL_BYTES = MAX_STATUS_BYTES - _MAX_MESSAGE_BYTES - 512  # 512: code, reason, retry, tags


@dataclass(frozen=True)
class ErrorDetails:
    """What a client may branch on.

    `reason` is a name from the enum `ErrorReason` without its prefix; `metadata` are facts about
    this error ("run", "latest_version"); `retry_delay`, in seconds, is how long to wait before a
    retry, or None where the server does not say.
    """

    reason: str
    metadata: dict[str, str] = field(default_factory=dict, hash=False)
    retry_delay: float | None = None


def encode_status(code: int, message: str, details: ErrorDetails) -> bytes:
    """The bytes to send under `TRAILER_KEY`, at most `MAX_STATUS_BYTES`.

    `code` is the gRPC status code, 1 to 16. A long message or metadata value is cut and ends in
    "..."; metadata that does not fit after that is left out from the end; lone surrogates are
    written as \\udXXX. So an error never fails to be sent because of the text that it quotes.
    Raises ValueError for a code, a reason or a delay that is not allowed.
    """
    if type(code) is not int or not 1 <= code <= 16:
        raise ValueError(f"{code!r} is not the code of an error: use 1 to 16")
    if not _REASON.fullmatch(details.reason):
        raise ValueError(f"{details.reason!r} is not a reason: use 1 to 63 of A-Z, 0-9 and '_'")
    status = _Status(code=code, message=clip(message, _MAX_MESSAGE_BYTES))
    info = _ErrorInfo(reason=details.reason, domain=DOMAIN)
    room = _MAX_DETAIL_BYTES
    for key, value in details.metadata.items():
        # Longer than googleapis advises: keys of a configuration must not become the same.
        short_key, short_value = clip(key, 256), clip(value, _MAX_VALUE_BYTES)
        room -= len(short_key.encode()) + len(short_value.encode()) + 12  # 12: tags and lengths
        if room < 0:
            break
        info.metadata[short_key] = short_value
    encoded = info.SerializeToString(deterministic=True)
    status.details.add(type_url=_TYPE_URL + _ERROR_INFO, value=encoded)
    delay = details.retry_delay
    if delay is not None:
        if not (math.isfinite(delay) and 0 <= delay <= _MAX_DELAY):
            raise ValueError(f"{delay!r} is not a delay: use 0 to {_MAX_DELAY} seconds")
        seconds, nanos = divmod(round(delay * 10**9), 10**9)
        retry = _RetryInfo()
        retry.retry_delay.seconds, retry.retry_delay.nanos = seconds, nanos
        status.details.add(type_url=_TYPE_URL + _RETRY_INFO, value=retry.SerializeToString())
    return bytes(status.SerializeToString())


def decode_status(data: bytes) -> tuple[int, str, ErrorDetails | None]:
    """The code, the message and our details of an encoded google.rpc.Status from anywhere.

    The details are None where no ErrorInfo has the domain "weightsync" (a proxy or another service
    answered). A retry delay that is negative or beyond what Duration may hold reads as None.
    Raises ValueError if the bytes are no such message.
    """
    try:
        status = _Status.FromString(bytes(data))
        info = retry = None
        for detail in status.details:
            kind = detail.type_url.rpartition("/")[2]
            if kind == _ERROR_INFO and info is None:
                found = _ErrorInfo.FromString(detail.value)
                info = found if found.domain == DOMAIN else None
            elif kind == _RETRY_INFO and retry is None:
                retry = _RetryInfo.FromString(detail.value)
    except (DecodeError, ValueError) as error:
        raise ValueError(f"not an encoded google.rpc.Status: {error}") from None
    code, message = int(status.code), str(status.message)
    if info is None:
        return code, message, None
    delay = _seconds(retry.retry_delay) if retry is not None else None
    return code, message, ErrorDetails(str(info.reason), dict(info.metadata), delay)


def clip(text: str, max_bytes: int) -> str:
    """`text` as valid Unicode of at most `max_bytes` bytes of UTF-8; "..." ends what was cut."""
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= max_bytes:
        return encoded.decode("utf-8")
    return encoded[: max_bytes - 3].decode("utf-8", "ignore") + "..."


def _seconds(duration: Any) -> float | None:
    valid = 0 <= duration.seconds <= _MAX_DELAY and 0 <= duration.nanos < 10**9
    return duration.seconds + duration.nanos / 10**9 if valid else None


def _message_classes() -> tuple[Any, Any, Any]:
    """The classes of Status, ErrorInfo and RetryInfo, in a descriptor pool of their own."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="weightsync/google_rpc.proto",
        package="google.rpc",
        syntax="proto3",
        dependency=[any_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name],
    )

    def add(owner: Any, number: int, name: str, kind: int, type_name: str = "") -> None:
        repeated = name in ("details", "metadata")
        label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
        made = owner.field.add(name=name, number=number, type=kind, label=label)
        if type_name:
            made.type_name = type_name

    status = file.message_type.add(name="Status")
    add(status, 1, "code", kinds.TYPE_INT32)
    add(status, 2, "message", kinds.TYPE_STRING)
    add(status, 3, "details", kinds.TYPE_MESSAGE, ".google.protobuf.Any")

    info = file.message_type.add(name="ErrorInfo")
    add(info, 1, "reason", kinds.TYPE_STRING)
    add(info, 2, "domain", kinds.TYPE_STRING)
    add(info, 3, "metadata", kinds.TYPE_MESSAGE, ".google.rpc.ErrorInfo.MetadataEntry")
    pair = info.nested_type.add(name="MetadataEntry")  # what `map<string, string>` stands for
    pair.options.map_entry = True
    add(pair, 1, "key", kinds.TYPE_STRING)
    add(pair, 2, "value", kinds.TYPE_STRING)

    retry = file.message_type.add(name="RetryInfo")
    add(retry, 1, "retry_delay", kinds.TYPE_MESSAGE, ".google.protobuf.Duration")

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(any_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    get: Any = message_factory.GetMessageClass
    find = pool.FindMessageTypeByName
    return get(find("google.rpc.Status")), get(find(_ERROR_INFO)), get(find(_RETRY_INFO))


_Status, _ErrorInfo, _RetryInfo = _message_classes()
