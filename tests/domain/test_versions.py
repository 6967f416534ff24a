"""What may be pushed, what a push makes obsolete, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from sync_server.domain.errors import (
    DomainError,
    InvalidArgument,
    VersionExists,
    VersionInUse,
    VersionNotFound,
    VersionNotNewer,
    VersionPinned,
    VersionRetired,
)
from sync_server.domain.versions import (
    MAX_VERSION,
    Admission,
    Cause,
    Pin,
    Pusher,
    VersionBook,
)
from tests.domain.builders import WALL, at, version

OLD = Pusher("trainer", 1)
NEW = Pusher("trainer", 2)
NOBODY = Pusher()


def book(*numbers: int, pusher: Pusher = OLD, pinned: Iterable[int] = ()) -> VersionBook:
    """A book into which `numbers` were committed in this order, all with digest "a"."""
    made = VersionBook()
    for revision, number in enumerate(numbers, start=1):
        pins = (Pin("eval"),) if number in pinned else ()
        made.put(version(number, pusher=pusher, revision=revision, pins=pins))
        made.point_at(number)
    return made


def numbers(found: Iterable[object]) -> list[int]:
    """The numbers of versions."""
    return [getattr(item, "number") for item in found]  # noqa: B009 - any record with a number


# --- admission: versions 3, 5 and 7 are there with digest "a", 7 is served, OLD pushed them

ADMISSIONS: list[tuple[str, int, str, Pusher, Admission | type[DomainError]]] = [
    ("a newer one", 8, "b", OLD, Admission.UPLOAD),
    ("much newer", MAX_VERSION, "b", OLD, Admission.UPLOAD),
    ("newer with the bytes of an older one", 8, "a", OLD, Admission.UPLOAD),
    ("the newest again", 7, "a", OLD, Admission.DONE),
    ("an older one again", 5, "a", OLD, Admission.DONE),
    ("other bytes for the newest", 7, "b", OLD, VersionExists),
    ("other bytes for an older one", 5, "b", OLD, VersionExists),
    ("below the newest", 6, "b", OLD, VersionNotNewer),
    ("zero", 0, "b", OLD, VersionNotNewer),
    ("the next generation goes on", 8, "b", NEW, Admission.UPLOAD),
    ("the next generation goes back", 6, "b", NEW, Admission.UPLOAD),
    ("the next generation goes back to other bytes", 5, "b", NEW, Admission.UPLOAD),
    ("the next generation replaces the newest", 7, "b", NEW, Admission.UPLOAD),
    ("the next generation repeats the newest", 7, "a", NEW, Admission.DONE),
    ("the next generation goes back to the same bytes", 5, "a", NEW, Admission.REWIND),
    ("another trainer goes back", 6, "b", Pusher("other", 1), Admission.UPLOAD),
    ("without a lease: newer", 8, "b", NOBODY, Admission.UPLOAD),
    ("without a lease: again", 5, "a", NOBODY, Admission.DONE),
    ("without a lease: back", 6, "b", NOBODY, VersionNotNewer),
    ("without a lease: other bytes", 7, "b", NOBODY, VersionExists),
    ("negative", -1, "b", NEW, InvalidArgument),
    ("beyond 64 bits", MAX_VERSION + 1, "b", NEW, InvalidArgument),
]


@pytest.mark.parametrize(
    ("number", "digest", "pusher", "outcome"),
    [row[1:] for row in ADMISSIONS],
    ids=[row[0] for row in ADMISSIONS],
)
def test_admission(
    number: int, digest: str, pusher: Pusher, outcome: Admission | type[DomainError]
) -> None:
    admit = book(3, 5, 7).admit
    if isinstance(outcome, Admission):
        assert admit(number, digest, pusher) is outcome
    else:
        with pytest.raises(outcome):
            admit(number, digest, pusher)


@pytest.mark.parametrize("pusher", [OLD, NOBODY])
@pytest.mark.parametrize("number", [0, 1, MAX_VERSION])
def test_the_first_version_may_have_any_number(number: int, pusher: Pusher) -> None:
    assert VersionBook().admit(number, "a", pusher) is Admission.UPLOAD


def test_a_run_without_leases_can_still_be_taken_over_by_a_trainer() -> None:
    assert book(5, pusher=NOBODY).admit(3, "b", OLD) is Admission.UPLOAD


def test_the_bytes_of_a_pinned_version_from_before_a_rewind_are_served_again() -> None:
    """9 is pinned, the run went back to 7; pushing the same 9 again must make it the newest."""
    kept = book(7, 9, pinned=[9])
    kept.put(version(7, "b", pusher=NEW, revision=3))
    kept.point_at(7)
    assert kept.admit(9, "a", NEW) is Admission.REWIND
    assert kept.admit(9, "b", NEW) is Admission.UPLOAD


# --- what a commit makes obsolete


@pytest.mark.parametrize(
    ("pinned", "number", "obsolete"),
    [
        ([], 10, []),
        ([], 7, [7]),
        ([], 6, [7]),
        ([], 5, [7, 5]),
        ([], 0, [7, 5, 3]),
        ([7], 5, [5]),
        ([5, 7], 4, []),
        ([7], 7, [7]),  # its number is used again: no pin can keep the old bytes
    ],
)
def test_superseding(pinned: list[int], number: int, obsolete: list[int]) -> None:
    kept = book(3, 5, 7, pinned=pinned)
    assert numbers(kept.superseded_by(number, at(0))) == obsolete


@pytest.mark.parametrize(
    ("keep", "pinned", "gone"),
    [
        (1, [], [7, 5, 3]),
        (2, [], [5, 3]),
        (3, [], [3]),
        (4, [], []),
        (100, [], []),
        (0, [], [7, 5, 3]),  # the committed one is kept whatever the number says
        (1, [3, 7], [5]),
        (2, [5], [3]),
    ],
)
def test_retention(keep: int, pinned: list[int], gone: list[int]) -> None:
    kept = book(3, 5, 7, pinned=pinned)
    assert numbers(kept.beyond_retention(version(9), keep, at(0))) == gone


def test_what_a_rewind_supersedes_takes_no_place_among_the_kept() -> None:
    """With two kept of 5 and 10, going back to 7 retires 10 and must leave 5."""
    assert numbers(book(5, 10).beyond_retention(version(7), 2, at(0))) == []


def test_an_expired_pin_keeps_nothing() -> None:
    kept = book(3, 5, 7)
    kept.put(kept.pin(3, "eval", 10.0, at(0)))
    assert numbers(kept.beyond_retention(version(9), 2, at(9.9))) == [5]
    assert numbers(kept.beyond_retention(version(9), 2, at(10.0))) == [5, 3]


def test_newest_means_committed_last_not_highest() -> None:
    kept = book(9, pinned=[9])
    for revision, number in ((2, 4), (3, 5)):
        kept.put(version(number, pusher=NEW, revision=revision))
        kept.point_at(number)
    assert numbers(kept.all()) == [5, 4, 9]


# --- pins


def test_pins_are_by_owner_and_sorted() -> None:
    kept = book(3)
    for owner, ttl in (("zoe", None), ("abe", 5.0), ("zoe", 7.0)):
        kept.put(kept.pin(3, owner, ttl, at(0)))
    assert kept.get(3).pins == (Pin("abe", WALL + 5), Pin("zoe", WALL + 7))
    assert kept.unpin(3, "abe", at(1)).pins == (Pin("zoe", WALL + 7),)
    assert kept.unpin(3, "nobody", at(1)) == kept.get(3)


def test_setting_a_pin_drops_the_expired_ones_and_keeps_the_revision() -> None:
    kept = book(3)
    kept.put(kept.pin(3, "short", 1.0, at(0)))
    pinned = kept.pin(3, "long", None, at(1.0))
    assert pinned.pins == (Pin("long", None),)
    assert pinned.revision == kept.get(3).revision


@pytest.mark.parametrize(
    ("expires_at", "now", "holds"),
    [(None, 1e9, True), (10.0, 9.999, True), (10.0, 10.0, False), (0.0, 0.0, False)],
)
def test_when_a_pin_holds(expires_at: float | None, now: float, holds: bool) -> None:
    pin = Pin("eval", None if expires_at is None else WALL + expires_at)
    assert pin.holds(at(now)) is holds
    assert version(1, pins=[pin]).pinned(at(now)) is holds


@pytest.mark.parametrize("owner", ["", "x" * 129, "two\nlines", "tab\t", "\x00", "\u202e"])
def test_an_owner_that_can_not_be_shown_is_refused(owner: str) -> None:
    kept = book(3)
    with pytest.raises(InvalidArgument):
        kept.pin(3, owner, None, at(0))
    with pytest.raises(InvalidArgument):
        kept.unpin(3, owner, at(0))


@pytest.mark.parametrize("owner", ["x", "x" * 128, "Zoë's evaluation #3", "評価"])
def test_any_line_of_text_may_own_a_pin(owner: str) -> None:
    assert book(3).pin(3, owner, None, at(0)).pins == (Pin(owner),)


# --- reading and deleting


def test_reading_what_is_not_there_says_what_is() -> None:
    with pytest.raises(VersionNotFound, match="there is none yet"):
        VersionBook().get(1)
    kept = book(3, 5)
    with pytest.raises(VersionNotFound, match="the newest is 5"):
        kept.get(4)


@pytest.mark.parametrize("cause", Cause)
def test_a_retired_version_is_told_from_one_that_never_was(cause: Cause) -> None:
    kept = book(3, 5)
    kept.retire(3, version(3).blob_id, cause)
    with pytest.raises(VersionRetired) as caught:
        kept.get(3)
    assert caught.value.metadata == {"version": "3", "cause": cause.value}
    kept.put(version(3, "b"))
    assert kept.get(3).digest == "b"


def test_retiring_goes_by_blob() -> None:
    """The removal of the old bytes comes after the commit of the new ones."""
    kept = book(3, 5)
    kept.put(version(5, "b", revision=3))
    kept.retire(5, version(5, "a").blob_id, Cause.SUPERSEDED)
    assert kept.get(5).digest == "b"
    latest = kept.latest()
    assert latest is not None
    assert latest.digest == "b"


def test_only_the_last_thousand_retired_ones_are_remembered() -> None:
    kept = VersionBook()
    for number in range(1500):
        kept.put(version(number))
        kept.retire(number, version(number).blob_id, Cause.RETENTION)
    with pytest.raises(VersionNotFound):
        kept.get(0)
    with pytest.raises(VersionRetired):
        kept.get(1499)
    with pytest.raises(VersionRetired):
        kept.get(1500 - 1024)


@pytest.mark.parametrize(
    ("delete", "refused"),
    [
        (lambda kept: kept.delete(7, at(0)), VersionInUse),
        (lambda kept: kept.delete(5, at(0)), VersionPinned),
        (lambda kept: kept.delete(4, at(0)), VersionNotFound),
    ],
)
def test_what_can_not_be_deleted(
    delete: Callable[[VersionBook], object], refused: type[DomainError]
) -> None:
    with pytest.raises(refused):
        delete(book(3, 5, 7, pinned=[5]))


def test_what_can_be_deleted() -> None:
    kept = book(3, 5, 7)
    kept.put(kept.pin(5, "eval", 1.0, at(0)))
    assert kept.delete(3, at(0)).number == 3
    assert kept.delete(5, at(1.0)).number == 5  # the pin is over
