"""Time and leases.

Leases live on the monotonic clock alone, so that a jump of the wall clock changes nothing; the
wall clock is only recorded to be shown (Kubernetes' coordination/v1 Lease has the same shape).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sync_server.domain.errors import InvalidDuration

MIN_LEASE_SECONDS = 1.0
MAX_LEASE_SECONDS = 3600.0
DEFAULT_LEASE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks, in seconds."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class Lease:
    """A promise to be heard from before `expires_at` (monotonic seconds)."""

    duration: float
    expires_at: float

    def expired(self, now: Instant) -> bool:
        """A lease still holds at the very moment at which it ends."""
        return now.monotonic > self.expires_at

    def renewed(self, now: Instant) -> Lease:
        """The same lease from `now` on; a renewal never shortens it."""
        return replace(self, expires_at=max(self.expires_at, now.monotonic + self.duration))


def grant(duration: float | None, now: Instant) -> Lease:
    """A new lease of `duration` seconds (None: the default).

    Raises InvalidDuration outside of 1 s to 1 h: below, a garbage collection in a trainer would
    lose it; above, nobody would notice a crash. Not worth a retry.
    """
    seconds = DEFAULT_LEASE_SECONDS if duration is None else duration
    if not MIN_LEASE_SECONDS <= seconds <= MAX_LEASE_SECONDS:
        raise InvalidDuration(
            f"lease of {seconds:g} s: "
            f"{MIN_LEASE_SECONDS:g} s to {MAX_LEASE_SECONDS:g} s is allowed",
            field="lease_duration",
        )
    return Lease(seconds, now.monotonic + seconds)
