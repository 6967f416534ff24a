"""A ticket opens what it was signed for, until it is over; no other text opens anything."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_server.bulk.tickets import Ticket, Tickets
from sync_server.domain.errors import InvalidTicket

TICKET = Ticket("get", "run-1", 7, "run-1/7-0123456789abcdef.safetensors", 1234, "xxh3-128:00")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


_tickets = st.builds(
    Ticket,
    direction=st.sampled_from(["get", "put"]),
    run_id=st.text(max_size=128),
    number=st.integers(0, 2**63 - 1),
    target=st.text(max_size=100),
    size_bytes=st.integers(10, 2**62),
    digest=st.text(max_size=41),
)
_signer = Tickets(Clock())


@given(ticket=_tickets)
def test_a_signed_ticket_opens(ticket: Ticket) -> None:
    text = _signer.sign(ticket)
    assert text.isascii()
    assert text.isprintable()  # it travels in a header
    assert _signer.open(text, ticket.direction, ticket.run_id, ticket.number) == ticket


@given(
    text=st.one_of(st.text(), st.text().map("Bearer {}".format), st.text().map("Bearer a.".__add__))
)
def test_no_other_text_opens(text: str) -> None:
    with pytest.raises(InvalidTicket):
        _signer.open(text, TICKET.direction, TICKET.run_id, TICKET.number)


@given(ticket=_tickets, data=st.data())
def test_a_body_that_was_changed_opens_nothing(ticket: Ticket, data: st.DataObject) -> None:
    text = _signer.sign(ticket)
    at = data.draw(st.integers(0, text.index(".") - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[at]))
    changed = text[:at] + other + text[at + 1 :]
    with pytest.raises(InvalidTicket):
        _signer.open(changed, ticket.direction, ticket.run_id, ticket.number)


@given(data=st.data())
def test_a_body_of_ones_own_opens_nothing(data: st.DataObject) -> None:
    """The signature of one ticket under another body."""
    scheme, _, text = _signer.sign(TICKET).partition(" ")
    body, _, mac = text.partition(".")
    content = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert content["until"] == 1300.0
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = data.draw(st.one_of(st.text(max_size=5), st.integers(), st.none()))
    forged = base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
    with pytest.raises(InvalidTicket):
        _signer.open(f"{scheme} {forged}.{mac}", "get", "run-1", 7)


@pytest.mark.parametrize(
    "asked", [("put", "run-1", 7), ("get", "run-2", 7), ("get", "run-1", 8), ("GET", "run-1", 7)]
)
def test_a_ticket_is_for_one_thing(asked: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidTicket, match="something else"):
        _signer.open(_signer.sign(TICKET), *asked)


def test_a_ticket_is_over_after_its_time() -> None:
    clock = Clock()
    tickets = Tickets(clock, ttl=300.0)
    text = tickets.sign(TICKET)
    clock.now += 299.999
    assert tickets.open(text, "get", "run-1", 7) == TICKET
    clock.now += 0.001
    with pytest.raises(InvalidTicket, match="is over"):
        tickets.open(text, "get", "run-1", 7)
    assert tickets.open(tickets.sign(TICKET), "get", "run-1", 7) == TICKET


def test_another_process_has_another_key() -> None:
    with pytest.raises(InvalidTicket, match="no ticket of this server"):
        Tickets(Clock()).open(_signer.sign(TICKET), "get", "run-1", 7)


def test_the_refusal_does_not_tell_how_near_a_guess_was() -> None:
    good = _signer.sign(TICKET)
    body, _, mac = good.partition(".")
    said = set()
    for text in ("", "Bearer ", "Bearer x.y", body, f"{body}.", f"{body}.{mac[::-1]}", f"x{good}"):
        with pytest.raises(InvalidTicket) as caught:
            _signer.open(text, "get", "run-1", 7)
        said.add(caught.value.message)
    assert len(said) == 1
