"""Progress records: whole, compared and set, bounded, fenced."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sync_server.domain import commands
from sync_server.domain.errors import (
    EtagMismatch,
    InvalidArgument,
    LeaseExpired,
    ProgressNotFound,
    StaleGeneration,
    WorkerNotFound,
)
from sync_server.domain.progress import MAX_RECORD_BYTES, Progress
from sync_server.domain.runs import ProgressSaved, Run
from sync_server.domain.versions import Pusher
from tests.domain.builders import WALL, at, drive, join, kinds, run_with

NOBODY = Pusher()


def save(
    run: Run,
    record_id: str = "trainer",
    payload: bytes = b"x",
    *,
    etag: str = "",
    writer: Pusher = NOBODY,
    now: float = 1.0,
) -> Progress:
    """Saves and applies."""
    events, progress = drive(
        run,
        at(now),
        commands.save_progress,
        writer=writer,
        record_id=record_id,
        payload=payload,
        etag=etag,
    )
    assert kinds(events) == [ProgressSaved]
    return progress


def test_a_record_is_replaced_whole_and_each_save_has_its_own_etag() -> None:
    run = run_with()
    first = save(run, payload=b"one", now=2)
    second = save(run, payload=b"one", now=3)
    assert first.etag != second.etag
    assert (second.payload, second.saved_at) == (b"one", WALL + 3)
    assert run.progress.get("trainer") == second
    assert [record.record_id for record in run.progress.all()] == ["trainer"]


def test_what_was_never_saved_is_not_found() -> None:
    run = run_with()
    save(run, "trainer")
    with pytest.raises(ProgressNotFound, match="explorer"):
        run.progress.get("explorer")


def test_an_etag_saves_only_over_the_state_that_it_names() -> None:
    run = run_with()
    first = save(run, payload=b"1")
    second = save(run, payload=b"2", etag=first.etag)
    before = run.revision
    with pytest.raises(EtagMismatch) as caught:
        save(run, payload=b"3", etag=first.etag)
    assert caught.value.metadata == {"etag": second.etag, "record": "trainer"}
    assert run.progress.get("trainer") == second
    assert run.revision == before
    assert save(run, payload=b"4").payload == b"4"  # without one, whatever is there


def test_an_etag_of_a_record_that_is_not_there_matches_nothing() -> None:
    run = run_with()
    other = save(run, "trainer")
    with pytest.raises(EtagMismatch) as caught:
        save(run, "explorer", etag=other.etag)
    assert caught.value.metadata["etag"] == "0"


def test_a_record_may_have_a_mebibyte_and_not_a_byte_more() -> None:
    run = run_with()
    assert len(save(run, payload=bytes(MAX_RECORD_BYTES)).payload) == MAX_RECORD_BYTES
    with pytest.raises(InvalidArgument, match="1048577 bytes"):
        save(run, payload=bytes(MAX_RECORD_BYTES + 1))


def test_only_the_holder_of_a_name_saves_under_its_lease() -> None:
    run = run_with()
    save(run, payload=b"old", writer=Pusher("t", 1))
    join(run, "t", run.workers.get("t").role, now=at(2))
    with pytest.raises(StaleGeneration):
        save(run, payload=b"stale", writer=Pusher("t", 1), now=3)
    save(run, payload=b"new", writer=Pusher("t", 2), now=3)
    with pytest.raises(WorkerNotFound):
        save(run, writer=Pusher("nobody", 1), now=3)
    with pytest.raises(LeaseExpired):
        save(run, payload=b"late", writer=Pusher("t", 2), now=99)
    assert run.progress.get("trainer").payload == b"new"


class ProgressMachine(RuleBasedStateMachine):
    """Several writers with what each of them read last, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.run = run_with()
        self.model: dict[str, tuple[bytes, str]] = {}
        self.read: dict[tuple[int, str], str] = {}
        self.etags: set[str] = set()

    @rule(writer=st.integers(0, 2), record=st.sampled_from("ab"))
    def reads(self, writer: int, record: str) -> None:
        if record in self.model:
            found = self.run.progress.get(record)
            assert (found.payload, found.etag) == self.model[record]
            self.read[writer, record] = found.etag
        else:
            with pytest.raises(ProgressNotFound):
                self.run.progress.get(record)

    @rule(
        writer=st.integers(0, 2),
        record=st.sampled_from("ab"),
        payload=st.binary(max_size=3),
        force=st.booleans(),
    )
    def saves(self, writer: int, record: str, payload: bytes, force: bool) -> None:
        etag = "" if force else self.read.get((writer, record), "")
        if etag and self.model[record][1] != etag:
            with pytest.raises(EtagMismatch):
                save(self.run, record, payload, etag=etag)
            return
        saved = save(self.run, record, payload, etag=etag)
        assert saved.etag not in self.etags
        self.etags.add(saved.etag)
        self.model[record] = (payload, saved.etag)
        self.read[writer, record] = saved.etag

    @invariant()
    def the_records_are_the_models(self) -> None:
        found = {item.record_id: (item.payload, item.etag) for item in self.run.progress.all()}
        assert found == self.model


TestProgressMachine = ProgressMachine.TestCase
TestProgressMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
