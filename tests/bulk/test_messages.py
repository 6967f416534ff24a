"""Heads of requests and answers as values."""

from __future__ import annotations

import contextlib
import json
import re

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sync_server.bulk import messages
from sync_server.bulk.messages import Head, HttpError, body_range, byte_range
from sync_server.domain import errors
from sync_server.domain.errors import DomainError, InvalidArgument, OffsetOutOfRange
from weightsync import names


def request(
    method: str = "GET", path: str = "/v1/runs/r/weightVersions/7", *lines: str, http: str = "1.1"
) -> bytes:
    """A head."""
    return "\r\n".join([f"{method} {path} HTTP/{http}", "Host: x", *lines, "", ""]).encode()


def head(**headers: str) -> Head:
    """A parsed one with these headers."""
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    return Head("PUT", "r", 7, given, keep_alive=True)


def test_what_a_head_says() -> None:
    lines = ("AUTHORIZATION: Bearer a.b", "Expect: 100-Continue", "Range: bytes=0-1")
    found, _ = messages.parse_head(request("GET", "/v1/runs/a.b-c/weightVersions/12", *lines))
    assert (found.method, found.run_id, found.number) == ("GET", "a.b-c", 12)
    assert found.authorization == "Bearer a.b"
    assert found.expects_continue
    assert found.headers["range"] == "bytes=0-1"
    assert found.keep_alive
    bare, _ = messages.parse_head(request())
    assert (bare.authorization, bare.expects_continue) == ("", False)


@pytest.mark.parametrize(
    ("http", "lines", "kept"),
    [
        ("1.1", (), True),
        ("1.1", ("Connection: keep-alive",), True),
        ("1.1", ("Connection: close",), False),
        ("1.1", ("connection: CLOSE",), False),
        ("1.0", (), False),
        ("1.0", ("Connection: keep-alive",), False),
    ],
)
def test_whether_the_connection_is_kept(http: str, lines: tuple[str, ...], kept: bool) -> None:
    found, connection = messages.parse_head(
        request("GET", "/v1/runs/r/weightVersions/7", *lines, http=http)
    )
    assert found.keep_alive is kept
    sent = messages.answer(connection, 200, [("Content-Length", "0")])
    assert (b"connection: close" in sent.lower()) is not kept


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/runs/r/weightVersions/7\r\n\r\n", 400),
        (b"GET /v1/runs/r/weightVersions/7 HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\n", 405),
        (request("POST"), 405),
        (request("get"), 405),
        (request("GET", "/"), 404),
        (request("GET", "/v2/runs/r/weightVersions/7"), 404),
        (request("GET", "http://x/v1/runs/r/weightVersions/7"), 404),
        (request("PUT", "/v1/runs/r/weightVersions/7", "Transfer-Encoding: chunked"), 411),
    ],
)
def test_heads_that_are_refused(data: bytes, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        messages.parse_head(data)
    assert caught.value.status == status


@given(path=st.text(st.characters(min_codepoint=33, max_codepoint=126)))
@example("runs/r/weightVersions/" + "9" * 9000)
@example("runs/r/weightVersions/1%2e")
def test_a_path_is_a_version_name_or_refused(path: str) -> None:
    data = request("GET", f"/v1/{path}")
    try:
        expected = names.parse_version(path)
    except names.InvalidName:
        with pytest.raises(names.InvalidName):
            messages.parse_head(data)
    else:
        found, _ = messages.parse_head(data)
        assert (found.run_id, found.number) == expected


@given(data=st.binary(max_size=300))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(HttpError, names.InvalidName):
        messages.parse_head(data + b"\r\n\r\n")


@given(
    size=st.integers(10, 2**40),
    first=st.one_of(st.none(), st.integers(0, 2**41)),
    last=st.one_of(st.none(), st.integers(0, 2**41)),
)
def test_a_range_is_within_the_file_or_refused(
    size: int, first: int | None, last: int | None
) -> None:
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    asked = head(range=text)
    if first is None and last is None:
        assert byte_range(asked, size) is None
        return
    if first is None:
        wanted = range(max(0, size - (last or 0)), size)
    else:
        wanted = range(first, size if last is None else min(size, last + 1))
    if not wanted:
        with pytest.raises(OffsetOutOfRange) as caught:
            byte_range(asked, size)
        assert caught.value.metadata == {"size_bytes": str(size)}
    else:
        assert byte_range(asked, size) == (wanted.start, wanted.stop)


@given(text=st.text(max_size=40))
def test_a_range_of_any_text(text: str) -> None:
    with contextlib.suppress(OffsetOutOfRange):
        found = byte_range(head(range=text), 1000)
        assert found is None or 0 <= found[0] < found[1] <= 1000


@given(
    first=st.integers(0, 120),
    last=st.integers(0, 120),
    total=st.integers(99, 101),
    length=st.integers(0, 120),
)
def test_what_a_body_is_to_be(first: int, last: int, total: int, length: int) -> None:
    sent = head(content_length=str(length), content_range=f"bytes {first}-{last}/{total}")
    if total == 100 and first <= last < 100 and length == last - first + 1:
        assert body_range(sent, 100) == (first, last + 1)
    else:
        with pytest.raises(InvalidArgument):
            body_range(sent, 100)


def test_a_body_without_a_range_is_the_whole_file() -> None:
    assert body_range(head(content_length="100"), 100) == (0, 100)
    for length in ("", "x", "1e2", "-1", "9" * 19):
        with pytest.raises(HttpError) as caught:
            body_range(head(content_length=length), 100)
        assert caught.value.status == 411
    with pytest.raises(HttpError):
        body_range(head(), 100)
    for length in ("0", "101"):
        with pytest.raises(DomainError):
            body_range(head(content_length=length), 100)


def test_a_refusal_says_what_a_grpc_call_says() -> None:
    status, body = messages.refusal(errors.VersionNotNewer("as it is", version=3, latest=4))
    assert status == 409
    assert json.loads(body) == {
        "reason": "VERSION_NOT_NEWER",
        "message": "as it is",
        "metadata": {"version": "3", "latest": "4"},
    }
    assert messages.refusal(errors.InvalidStream("odd"))[0] == 400


def test_every_status_has_its_phrase_and_every_reason_is_one_of_ours() -> None:
    reasons = {kind.reason for kind in DomainError.__subclasses__()} | {"INTERNAL"}
    assert set(messages.HTTP_STATUS) <= reasons
    used = {*messages.HTTP_STATUS.values(), 200, 201, 204, 206, 400, 404, 405, 411, 431}
    for status in used:
        first = messages.answer(h11.Connection(h11.SERVER), status).split(b"\r\n")[0]
        assert re.fullmatch(rb"HTTP/1\.1 %d [A-Z][A-Za-z ]+" % status, first)
