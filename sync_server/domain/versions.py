"""Weight versions of one run: what may be pushed, what is served, what is retired.

A version is identified by number and digest: a trainer that resumed from an older checkpoint
goes back, and numbers are used again with other bytes. Decisions change nothing; `put`, `retire`
and `point_at` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from sync_server.domain.errors import (
    InvalidArgument,
    VersionElsewhere,
    VersionExists,
    VersionInUse,
    VersionNotFound,
    VersionNotNewer,
    VersionPinned,
    VersionRetired,
)
from sync_server.domain.leases import Instant

MAX_VERSION = 2**63 - 1
# Begins the blob id of a version without bytes, which tells it from others but has no file.
NO_FILE = "reference:"
DEFAULT_KEEP = 2
_REMEMBERED_RETIRED = 1024


@dataclass(frozen=True, slots=True)
class Pusher:
    """Who pushed: a worker's name and generation; empty and 0 without a lease."""

    worker_id: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """Keeps a version until `expires_at` (wall seconds; None: until it is taken back)."""

    owner: str
    expires_at: float | None = None

    def holds(self, now: Instant) -> bool:
        """Whether the pin still counts."""
        return self.expires_at is None or now.wall < self.expires_at


class Source(Enum):
    """Where the weights of a version without bytes are."""

    CHECKPOINT = "checkpoint"  # a path that explorers read themselves
    EXTERNAL = "external"  # what means something to explorers
    RENDEZVOUS = "rendezvous"  # the process group through which they went


@dataclass(frozen=True, slots=True)
class Reference:
    """A version without bytes here: 0 to 4096 characters that the server never looks behind."""

    source: Source
    text: str


@dataclass(frozen=True, slots=True)
class Version:
    """One complete, verified, visible version.

    With a `reference` the weights are elsewhere, and `digest` is that of the reference: it tells
    two publications apart.
    """

    number: int
    digest: str
    size_bytes: int
    tensor_count: int
    blob_id: str
    tensor_digests: bytes  # 8 big-endian bytes a tensor, in the order of the file
    pusher: Pusher
    committed_at: float  # wall seconds
    revision: int
    pins: tuple[Pin, ...] = ()
    reference: Reference | None = None

    def pinned(self, now: Instant) -> bool:
        """Whether any pin still holds."""
        return any(pin.holds(now) for pin in self.pins)

    def check_here(self) -> None:
        """Raises VersionElsewhere where there are no bytes of it here."""
        if self.reference is not None:
            source = self.reference.source.value
            raise VersionElsewhere(
                f"version {self.number} has no bytes here: "
                f"its weights are in {source} {self.reference.text!r}",
                version=self.number,
                source=source,
            )


class Cause(Enum):
    """Why a version can no longer be pulled."""

    RETENTION = "retention"
    SUPERSEDED = "superseded"
    DELETED = "deleted"
    DAMAGED = "damaged"


class Admission(Enum):
    """What is to be done with a push."""

    UPLOAD = "upload"  # the bytes are needed
    DONE = "done"  # the version is there with the same digest
    REWIND = "rewind"  # the bytes are there, but explorers must go back to them


class VersionBook:
    """The versions of one run."""

    def __init__(self) -> None:
        self._active: dict[int, Version] = {}
        self._retired: dict[int, tuple[Cause, str]] = {}  # why, and the digest
        self.current: int | None = None
        # The highest number of which explorers may hold bytes that are no longer the run's.
        self.superseded_max: int | None = None

    # --- reading

    def all(self) -> list[Version]:
        """Every version that can be pulled, the one that became visible last first."""
        return sorted(self._active.values(), key=lambda v: v.revision, reverse=True)

    def latest(self) -> Version | None:
        """The version that explorers are given."""
        return None if self.current is None else self._active[self.current]

    def get(self, number: int) -> Version:
        """One version. Raises VersionRetired if it is known to have existed, VersionNotFound."""
        version = self._active.get(number)
        if version is not None:
            return version
        latest = "there is none yet" if self.current is None else f"the newest is {self.current}"
        if number in self._retired:
            cause, _ = self._retired[number]
            raise VersionRetired(
                f"version {number} was retired ({cause.value}); {latest}",
                version=number,
                cause=cause.value,
            )
        raise VersionNotFound(f"no version {number}; {latest}", version=number)

    def digest_of(self, number: int) -> str | None:
        """The digest of a version that can be pulled, or could until lately; None: unknown."""
        version = self._active.get(number)
        if version is not None:
            return version.digest
        return self._retired[number][1] if number in self._retired else None

    def number_of(self, digest: str) -> int | None:
        """A version with that digest that can be pulled, or could until lately; None: unknown."""
        for version in self.all():
            if version.digest == digest:
                return version.number
        retired = (n for n, (_, held) in reversed(self._retired.items()) if held == digest)
        return next(retired, None)

    # --- deciding

    def admit(self, number: int, digest: str, pusher: Pusher) -> Admission:
        """Whether a push of `number` is needed, done already, or refused.

        Within one trainer generation numbers only rise. Another generation may go back: it
        resumed from an older checkpoint. Raises VersionExists for other bytes under a number that
        is in use, VersionNotNewer for a number not above the newest. Neither is worth a retry.
        """
        check_number(number)
        latest = self.latest()
        existing = self._active.get(number)
        if latest is None:
            there = existing is not None and existing.digest == digest
            return Admission.REWIND if there else Admission.UPLOAD
        same_lineage = pusher == latest.pusher or not pusher.worker_id
        if existing is not None and existing.digest == digest:
            # Above the newest lies only what a pin kept when the run went back.
            went_back = number < latest.number and not same_lineage
            moves = went_back or number > latest.number
            return Admission.REWIND if moves else Admission.DONE
        if number > latest.number:
            return Admission.UPLOAD
        if not same_lineage:
            return Admission.UPLOAD
        if existing is not None:
            raise VersionExists(
                f"version {number} exists with other bytes ({existing.digest})",
                version=number,
                digest=existing.digest,
            )
        raise VersionNotNewer(
            f"version {number} is not above the newest, {latest.number}",
            version=number,
            latest=latest.number,
        )

    def superseded_by(self, number: int, now: Instant) -> list[Version]:
        """The versions that a commit of `number` makes obsolete: those at or above it.

        A pinned one above it stays until its number is used again: someone still evaluates it.
        """
        return [
            version
            for version in self.all()
            if version.number == number or (version.number > number and not version.pinned(now))
        ]

    def beyond_retention(self, committed: Version, keep: int, now: Instant) -> list[Version]:
        """The versions that are neither `committed`, nor among the newest `keep`, nor pinned.

        What `committed` supersedes goes anyway and takes no place among them.
        """
        going = {committed.number, *(v.number for v in self.superseded_by(committed.number, now))}
        others = [version for version in self.all() if version.number not in going]
        return [version for version in others[max(keep, 1) - 1 :] if not version.pinned(now)]

    def pin(self, number: int, owner: str, ttl: float | None, now: Instant) -> Version:
        """The version with `owner`'s pin set anew. Raises InvalidArgument and what `get` does."""
        check_owner(owner)
        version = self.get(number)
        kept = [p for p in version.pins if p.owner != owner and p.holds(now)]
        pin = Pin(owner, None if ttl is None else now.wall + ttl)
        return replace(version, pins=tuple(sorted([*kept, pin], key=lambda p: p.owner)))

    def unpin(self, number: int, owner: str, now: Instant) -> Version:
        """The version without `owner`'s pin; taking back what is not there is fine."""
        check_owner(owner)
        version = self.get(number)
        kept = tuple(p for p in version.pins if p.owner != owner and p.holds(now))
        return replace(version, pins=kept)

    def delete(self, number: int, now: Instant) -> Version:
        """The version to delete. Raises VersionInUse for the served one, VersionPinned."""
        version = self.get(number)
        if number == self.current:
            raise VersionInUse(f"version {number} is the one explorers are given", version=number)
        if version.pinned(now):
            owners = ", ".join(p.owner for p in version.pins if p.holds(now))
            raise VersionPinned(f"version {number} is pinned by {owners}", version=number)
        return version

    # --- changing

    def put(self, version: Version) -> None:
        """Stores a record that a decision returned."""
        self._active[version.number] = version
        self._retired.pop(version.number, None)

    def point_at(self, number: int) -> None:
        """Serves `number` from now on. Going back remembers how far explorers had come."""
        self.current, self.superseded_max = self.pointers_at(number)

    def pointers_at(self, number: int | None) -> tuple[int | None, int | None]:
        """`current` and `superseded_max` as serving `number` (None: nothing) would leave them."""
        if self.current is None or (number is not None and number > self.current):
            return number, self.superseded_max
        return number, max(self.current, self.superseded_max or 0)

    def retire(self, number: int, blob_id: str, cause: Cause) -> None:
        """Forgets a version and remembers why (of the last thousand).

        The blob tells which one is meant: the number may already be in use again.
        """
        version = self._active.get(number)
        if version is None or version.blob_id != blob_id:
            return
        del self._active[number]
        self._retired[number] = (cause, version.digest)
        if self.current == number:
            self.current, self.superseded_max = self.pointers_at(None)
        while len(self._retired) > _REMEMBERED_RETIRED:
            self._retired.pop(next(iter(self._retired)))

    def restore(
        self, versions: Iterable[Version], current: int | None, superseded_max: int | None
    ) -> None:
        """Puts records back after a restart."""
        for version in versions:
            self.put(version)
        self.current = current if current in self._active else None
        self.superseded_max = superseded_max


def check_number(number: int) -> None:
    """Raises InvalidArgument for anything but a training step."""
    if not 0 <= number <= MAX_VERSION:
        raise InvalidArgument(f"version {number}: 0 to 2**63-1 is allowed", field="version")


def check_owner(owner: str) -> None:
    """Raises InvalidArgument for a pin's owner that can't be shown in one line."""
    if not 1 <= len(owner) <= 128 or not owner.isprintable():
        raise InvalidArgument(
            f"pin owner {owner[:64]!r}: 1 to 128 printable characters are allowed", field="owner"
        )
