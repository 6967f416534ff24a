"""Error details: wire-compatible with the real google.rpc messages, and safe against garbage."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from weightsync.error_details import (
    DOMAIN,
    MAX_STATUS_BYTES,
    TRAILER_KEY,
    ErrorDetails,
    clip,
    decode_status,
    encode_status,
)

codes = st.integers(1, 16)
reasons = st.from_regex(r"[A-Z][A-Z0-9_]{0,62}", fullmatch=True)
unicode_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
metadatas = st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True), unicode_texts)
delays = st.none() | st.floats(0, 1e5)
details_of_any_kind = st.builds(ErrorDetails, reasons, metadatas, delays)


@settings(deadline=None)
@given(codes, unicode_texts, details_of_any_kind)
def test_what_is_encoded_decodes_to_the_same(
    code: int, message: str, details: ErrorDetails
) -> None:
    got_code, got_message, got = decode_status(encode_status(code, message, details))
    assert (got_code, got_message) == (code, message)
    assert got is not None
    assert got.reason == details.reason
    if sum(len(k.encode()) + len(v.encode()) + 12 for k, v in details.metadata.items()) < 2500:
        assert got.metadata == details.metadata
    if details.retry_delay is None:
        assert got.retry_delay is None
    else:
        assert got.retry_delay is not None
        assert math.isclose(got.retry_delay, details.retry_delay, abs_tol=1e-9)


# --- the real google.rpc messages --------------------------------------------------------------


@settings(deadline=None)
@given(codes, unicode_texts, details_of_any_kind)
def test_googleapis_reads_what_is_written(code: int, message: str, details: ErrorDetails) -> None:
    status = status_pb2.Status.FromString(encode_status(code, message, details))
    assert (status.code, status.message) == (code, message)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (details.reason, DOMAIN)
    decoded = decode_status(encode_status(code, message, details))[2]
    assert decoded is not None
    assert dict(info.metadata) == decoded.metadata
    if details.retry_delay is None:
        assert len(status.details) == 1
    else:
        assert status.details[1].Unpack(retry)
        seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 10**9
        assert seconds == decoded.retry_delay


def packed(*messages: Any) -> list[any_pb2.Any]:
    details = []
    for message in messages:
        detail = any_pb2.Any()
        detail.Pack(message)
        details.append(detail)
    return details


@settings(deadline=None)
@given(codes, unicode_texts, details_of_any_kind)
def test_what_googleapis_writes_is_read(code: int, message: str, details: ErrorDetails) -> None:
    info = error_details_pb2.ErrorInfo(
        reason=details.reason, domain=DOMAIN, metadata=details.metadata
    )
    messages: list[Any] = [error_details_pb2.DebugInfo(detail="trace"), info]
    if details.retry_delay is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(details.retry_delay * 10**9))
        messages.insert(0, retry)
    status = status_pb2.Status(code=code, message=message, details=packed(*messages))
    got_code, got_message, got = decode_status(status.SerializeToString())
    assert (got_code, got_message) == (code, message)
    assert got is not None
    assert (got.reason, got.metadata) == (details.reason, details.metadata)
    assert (got.retry_delay is None) == (details.retry_delay is None)


def test_the_bytes_are_those_of_googleapis() -> None:
    info = error_details_pb2.ErrorInfo(
        reason="VERSION_NOT_FOUND", domain="weightsync", metadata={"run": "default"}
    )
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    real = status_pb2.Status(code=5, message="version 7: 没有", details=packed(info, retry))
    ours = ErrorDetails("VERSION_NOT_FOUND", {"run": "default"}, 1.5)
    assert encode_status(5, "version 7: 没有", ours) == real.SerializeToString()
    assert real.details[0].type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    assert TRAILER_KEY == "grpc-status-details-bin"


def test_only_our_domain_counts() -> None:
    other = error_details_pb2.ErrorInfo(reason="OTHER", domain="googleapis.com")
    ours = error_details_pb2.ErrorInfo(reason="OURS", domain=DOMAIN)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromSeconds(3)
    alone = status_pb2.Status(code=14, message="busy", details=packed(other, retry))
    assert decode_status(alone.SerializeToString()) == (14, "busy", None)
    both = status_pb2.Status(code=14, message="busy", details=packed(other, retry, ours))
    expected = (14, "busy", ErrorDetails("OURS", {}, 3.0))
    assert decode_status(both.SerializeToString()) == expected
    assert decode_status(status_pb2.Status(code=2).SerializeToString()) == (2, "", None)
    assert decode_status(b"") == (0, "", None)


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (0, -1), (0, 10**9), (2**62, 0)])
def test_a_delay_that_no_duration_has_reads_as_none(seconds: int, nanos: int) -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.seconds, retry.retry_delay.nanos = seconds, nanos
    ours = error_details_pb2.ErrorInfo(reason="OURS", domain=DOMAIN)
    status = status_pb2.Status(code=14, details=packed(ours, retry))
    got = decode_status(status.SerializeToString())[2]
    assert got == ErrorDetails("OURS", {}, None)


# --- garbage and excess ------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=80), details_of_any_kind, st.data())
def test_garbage_raises_value_error_and_nothing_else(
    noise: bytes, details: ErrorDetails, data: st.DataObject
) -> None:
    good = encode_status(9, "message", details)
    at = data.draw(st.integers(0, len(good)))
    flipped = bytearray(good)
    flipped[at % len(good)] ^= data.draw(st.integers(1, 255))
    for text in (noise, good[:at], good[:at] + noise + good[at:], bytes(flipped)):
        try:
            code, message, found = decode_status(text)
        except ValueError:
            continue
        assert isinstance(code, int)
        assert isinstance(message, str)
        assert found is None or (isinstance(found.reason, str) and isinstance(found.metadata, dict))


@pytest.mark.parametrize("data", [b"\xff", b"\x12\x01\xff", b"\x1a\x05abc", b"\x0a"])
def test_bytes_that_are_no_status(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an encoded google\.rpc\.Status"):
        decode_status(data)


anything = st.text(st.characters(), max_size=3000)


@settings(deadline=None, max_examples=60)
@given(anything, st.dictionaries(anything, anything, max_size=60))
def test_an_error_is_sent_whatever_text_it_quotes(message: str, metadata: dict[str, str]) -> None:
    data = encode_status(3, message, ErrorDetails("INVALID_NAME", metadata, 1.5))
    assert len(data) <= MAX_STATUS_BYTES
    code, _, details = decode_status(data)
    assert code == 3
    assert details is not None
    assert (details.reason, details.retry_delay) == ("INVALID_NAME", 1.5)
    assert status_pb2.Status.FromString(data).code == 3


def test_the_largest_status_is_within_its_limit() -> None:
    metadata = {f"{i:064}": "€" * 1000 for i in range(100)}
    data = encode_status(16, "€" * 5000, ErrorDetails("R" * 63, metadata, 3e11))
    assert MAX_STATUS_BYTES - 1024 < len(data) <= MAX_STATUS_BYTES
    _, message, details = decode_status(data)
    assert message.endswith("€...")
    assert details is not None
    assert set(details.metadata) == set(list(metadata)[: len(details.metadata)])
    assert len(details.metadata) >= 4


@given(st.text(st.characters(), max_size=50), st.integers(3, 60))
def test_clipped_text_is_unicode_and_fits(text: str, limit: int) -> None:
    short = clip(text, limit)
    assert len(short.encode()) <= limit
    whole = text.encode("utf-8", "backslashreplace").decode()
    assert short == whole or (short.endswith("...") and whole.startswith(short[:-3]))


@pytest.mark.parametrize("code", [0, 17, -1, True, "5"])
def test_only_codes_of_errors_are_encoded(code: Any) -> None:
    with pytest.raises(ValueError, match="is not the code of an error"):
        encode_status(code, "", ErrorDetails("R"))


@pytest.mark.parametrize("reason", ["", "lower", "A B", "R" * 64, "É", "A\n"])
def test_only_reasons_are_encoded(reason: str) -> None:
    with pytest.raises(ValueError, match="is not a reason"):
        encode_status(5, "", ErrorDetails(reason))


@pytest.mark.parametrize("delay", [-0.1, math.inf, math.nan, 1e12])
def test_only_delays_are_encoded(delay: float) -> None:
    with pytest.raises(ValueError, match="is not a delay"):
        encode_status(5, "", ErrorDetails("R", {}, delay))


async def test_the_largest_status_reaches_a_real_grpc_client() -> None:
    metadata = {f"key_{i}": "x" * 600 for i in range(20)}
    message = clip("漢" * 2000, 1024)  # percent-encoded in the trailers, three bytes for one
    data = encode_status(10, message, ErrorDetails("STALE_GENERATION", metadata, 2.0))

    async def refuse(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        context.set_trailing_metadata(((TRAILER_KEY, data),))
        await context.abort(grpc.StatusCode.ABORTED, message)
        return b""

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Errors", {"Refuse": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            refused: Any = channel.unary_unary("/test.Errors/Refuse")
            for _ in range(20):  # over the limit only some of the calls would fail
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await refused(b"")
                assert caught.value.code() is grpc.StatusCode.ABORTED
                assert caught.value.details() == message
                # In pairs: dict() of a Metadata raises KeyError in grpcio 1.71.2.
                trailers = dict(list(caught.value.trailing_metadata() or ()))
                assert decode_status(bytes(trailers[TRAILER_KEY])) == decode_status(data)
    finally:
        await server.stop(None)
