"""Tickets: what a client may do on the bulk port, signed, for a short time.

A ticket is bound to one direction and one blob or upload, and holds all that the port needs, so
that checking one asks nobody. The key is made anew with each process: a ticket of a server that
died opens nothing at the next one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from sync_server.domain.errors import InvalidTicket

TTL_SECONDS = 300.0
"""How long a transfer can be begun with a ticket; one that has begun goes on to its end."""
_KEY_BYTES = 32
_SCHEME = "Bearer "
_MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Ticket:
    """What may be done."""

    direction: Literal["get", "put"]
    run_id: str
    number: int
    target: str
    """The blob that is read, or the upload that is fed."""
    size_bytes: int
    digest: str


class Tickets:
    """Signs and checks. Safe for several threads."""

    def __init__(self, now: Callable[[], float], ttl: float = TTL_SECONDS) -> None:
        """`now` gives seconds of a clock that never goes back."""
        self._now = now
        self._key = secrets.token_bytes(_KEY_BYTES)
        self.ttl = ttl

    def sign(self, ticket: Ticket) -> str:
        """The value of the `Authorization` header that opens this, for `ttl` seconds."""
        content = {**asdict(ticket), "until": self._now() + self.ttl}
        body = _encode(json.dumps(content, separators=(",", ":")).encode())
        return f"{_SCHEME}{body}.{_encode(self._mac(body))}"

    def open(self, authorization: str, direction: str, run_id: str, number: int) -> Ticket:
        """The ticket, if it is ours, not over, and for this. Raises InvalidTicket."""
        body, dot, mac = authorization.removeprefix(_SCHEME).partition(".")
        # Compared as text: other text that decodes to the same bytes is no ticket of ours.
        given = mac.encode("utf-8", "surrogatepass")
        if (
            not authorization.startswith(_SCHEME)
            or len(authorization) > _MAX_TEXT
            or not dot
            or not hmac.compare_digest(given, _encode(self._mac(body)).encode())
        ):
            raise InvalidTicket("no ticket of this server: ask PlanUpload or PlanDownload for one")
        decoded = _decode(body)
        assert decoded is not None  # it has our signature
        content = json.loads(decoded)
        until = content.pop("until")
        ticket = Ticket(**content)
        if (ticket.direction, ticket.run_id, ticket.number) != (direction, run_id, number):
            raise InvalidTicket("the ticket is for something else: ask for one anew")
        if self._now() >= until:
            raise InvalidTicket("the ticket is over: ask for one anew")
        return ticket

    def _mac(self, body: str) -> bytes:
        return hmac.digest(self._key, body.encode("utf-8", "surrogatepass"), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes | None:
    try:
        return base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error, ValueError):
        return None
