"""Requests and answers of the bulk port as values; h11 reads and writes the heads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import h11

from sync_server.domain.errors import DomainError, InvalidArgument, OffsetOutOfRange, SizeMismatch
from weightsync import names

MAX_HEAD_BYTES = 16 << 10
_PREFIX = "/v1/"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_LENGTH = re.compile(r"\d{1,18}")

# Reasons that are not here are 400.
HTTP_STATUS: dict[str, int] = {
    "INVALID_TICKET": 401,
    "RUN_NOT_FOUND": 404,
    "VERSION_NOT_FOUND": 404,
    "VERSION_RETIRED": 404,
    "VERSION_EXISTS": 409,
    "VERSION_NOT_NEWER": 409,
    "UPLOAD_IN_PROGRESS": 409,
    "STALE_GENERATION": 409,
    "LEASE_EXPIRED": 409,
    "TRAINER_ACTIVE": 409,
    "OFFSET_OUT_OF_RANGE": 416,
    "INTERNAL": 500,
    "BLOB_DAMAGED": 500,
    "SHUTTING_DOWN": 503,
    "LIMIT_EXCEEDED": 503,
    "STORAGE_FULL": 507,
}
_METHODS = ("GET", "HEAD", "PUT", "DELETE")
_PHRASES = {
    200: "OK",
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    411: "Length Required",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}


class HttpError(Exception):
    """A request that is refused before it is known what it is about."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body."""

    method: str
    run_id: str
    number: int
    headers: dict[str, str]
    keep_alive: bool

    @property
    def authorization(self) -> str:
        """The ticket."""
        return self.headers.get("authorization", "")

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body (curl does)."""
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_head(data: bytes) -> tuple[Head, h11.Connection]:
    """A head, whole with its empty line, and what its answer is written with.

    Raises HttpError, InvalidName.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        connection.receive_data(data)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise HttpError(400, f"no HTTP/1.1 request: {error}") from error
    if not isinstance(event, h11.Request):
        raise HttpError(400, "no HTTP/1.1 request")
    method, path = event.method.decode("ascii"), event.target.decode("ascii", "replace")
    if method not in _METHODS:
        raise HttpError(405, f"{method}: {', '.join(_METHODS)} are allowed")
    if not path.startswith(_PREFIX):
        raise HttpError(404, "nothing here: /v1/runs/{run}/weightVersions/{version} is")
    run_id, number = names.parse_version(path[len(_PREFIX) :])
    headers = {key.decode("ascii"): value.decode("latin-1") for key, value in event.headers}
    if "transfer-encoding" in headers:
        raise HttpError(411, "a body needs a Content-Length")
    if method != "PUT" and headers.get("content-length", "0") != "0":
        # Its body would be read as the next request.
        raise HttpError(400, f"a {method} has no body")
    if connection.trailing_data[0]:
        # h11 takes a bare line feed for the end of a line, and ends the head before we do.
        raise HttpError(400, "lines end with CR LF")
    keep = event.http_version == b"1.1" and headers.get("connection", "").lower() != "close"
    return Head(method, run_id, number, headers, keep), connection


def byte_range(head: Head, size: int) -> tuple[int, int] | None:
    """(begin, end) of a `Range` header; None: all of it. Raises OffsetOutOfRange."""
    text = head.headers.get("range")
    match = None if text is None else _RANGE.fullmatch(text.strip())
    if match is None:
        return None  # also several ranges at once: RFC 9110 lets a server send everything then
    first, last = match.groups()
    if not first and not last:
        return None
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if begin >= size or begin >= end:
        raise OffsetOutOfRange(f"range {text!r}: there are {size} bytes", size_bytes=size)
    return begin, end


def body_range(head: Head, size: int) -> tuple[int, int]:
    """(begin, end) of the bytes that a PUT brings, of `size`.

    Raises HttpError without a length, SizeMismatch, InvalidArgument where the lengths contradict
    each other.
    """
    length = head.headers.get("content-length", "")
    if not _LENGTH.fullmatch(length):
        raise HttpError(411, "a body needs a Content-Length")
    text = head.headers.get("content-range")
    if text is None:
        begin, end, total = 0, int(length), size
        if end != size:
            raise SizeMismatch(
                f"{end} bytes in the body: {size} were announced; a part needs a Content-Range",
                announced=size,
            )
    else:
        match = _CONTENT_RANGE.fullmatch(text.strip())
        if match is None:
            raise InvalidArgument(f"Content-Range {text[:100]!r}: use bytes FIRST-LAST/TOTAL")
        begin, end, total = int(match[1]), int(match[2]) + 1, int(match[3])
    if total != size or not 0 <= begin < end <= size or end - begin != int(length):
        raise InvalidArgument(
            f"bytes {begin} to {end} of {total}, {length} in the body: {size} were announced"
        )
    return begin, end


def answer(
    connection: h11.Connection, status: int, headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """The head of an answer."""
    phrase = _PHRASES.get(status, "").encode()
    event = h11.Response(status_code=status, reason=phrase, headers=list(headers))
    return connection.send(event) or b""


def refusal(error: DomainError) -> tuple[int, bytes]:
    """Status and JSON body for what the server refuses."""
    content = {"reason": error.reason, "message": error.message, "metadata": error.metadata}
    return HTTP_STATUS.get(error.reason, 400), json.dumps(content).encode() + b"\n"
