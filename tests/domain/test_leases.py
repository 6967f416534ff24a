"""Leases on an injected clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_server.domain.errors import InvalidDuration
from sync_server.domain.leases import (
    DEFAULT_LEASE_SECONDS,
    MAX_LEASE_SECONDS,
    MIN_LEASE_SECONDS,
    Instant,
    Lease,
    grant,
)
from tests.domain.builders import at


@pytest.mark.parametrize(
    ("now", "expired"),
    [(0.0, False), (14.999, False), (15.0, False), (15.000001, True), (1e9, True)],
)
def test_a_lease_holds_up_to_its_very_last_moment(now: float, expired: bool) -> None:
    assert grant(10.0, at(5.0)).expired(at(now)) is expired


def test_no_duration_means_the_default() -> None:
    assert grant(None, at(2.0)) == Lease(DEFAULT_LEASE_SECONDS, 2.0 + DEFAULT_LEASE_SECONDS)


@pytest.mark.parametrize("seconds", [MIN_LEASE_SECONDS, MAX_LEASE_SECONDS])
def test_the_limits_themselves_are_allowed(seconds: float) -> None:
    assert grant(seconds, at(0.0)).duration == seconds


@pytest.mark.parametrize(
    "seconds", [0.0, -1.0, 0.999, 3600.001, math.inf, -math.inf, math.nan, 1e300]
)
def test_what_is_no_sensible_lease_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidDuration) as caught:
        grant(seconds, at(0.0))
    assert caught.value.metadata["field"] == "lease_duration"


def test_the_wall_clock_plays_no_part() -> None:
    lease = grant(10.0, Instant(monotonic=0.0, wall=1e9))
    assert not lease.expired(Instant(monotonic=9.0, wall=2e9))
    assert lease.expired(Instant(monotonic=11.0, wall=0.0))


@given(st.floats(1, 3600), st.lists(st.floats(0, 1e6), max_size=8))
def test_a_renewal_never_shortens_and_always_lasts_a_duration(
    duration: float, moments: list[float]
) -> None:
    lease = grant(duration, at(0.0))
    for moment in moments:  # in any order: a clock that is read late gives an earlier `now`
        renewed = lease.renewed(at(moment))
        assert renewed.expires_at >= lease.expires_at
        assert renewed.expires_at >= moment + duration
        assert renewed.duration == duration
        lease = renewed
