"""Every mutation of a run as a pure function: from (run, now, what is asked) to (changes, answer).

They raise a DomainError to refuse; then nothing is to be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sync_server.domain.applied import Applied, Finding, finding
from sync_server.domain.configs import Difference, Value, differences, seal
from sync_server.domain.errors import ConfigMismatch, InvalidArgument, WorkerNotFound
from sync_server.domain.leases import Instant
from sync_server.domain.progress import Progress
from sync_server.domain.runs import (
    Change,
    ConfigSet,
    NothingNew,
    ProgressSaved,
    Run,
    VersionChanged,
    VersionCommitted,
    WorkerChanged,
    WorkerRemoved,
    removal,
)
from sync_server.domain.versions import Admission, Cause, Pusher, Version, check_number
from sync_server.domain.workers import Role, State, Worker


def register(
    run: Run,
    now: Instant,
    *,
    worker_id: str,
    role: Role,
    lease_seconds: float | None,
    resume_generation: int | None,
) -> tuple[list[Change], Worker]:
    """A worker registers, takes a name over, or resumes."""
    worker = run.workers.register(worker_id, role, lease_seconds, now, resume_generation)
    return [WorkerChanged(worker)], worker


def set_state(
    run: Run,
    now: Instant,
    *,
    worker_id: str,
    generation: int,
    state: State,
    expected: State | None,
) -> tuple[list[Change], Worker]:
    """A worker moves along the transition table; to where it is already is no change."""
    worker = run.workers.set_state(worker_id, generation, state, now, expected)
    if worker is None:
        return [], run.workers.get(worker_id)
    return [WorkerChanged(worker)], worker


def deregister(
    run: Run, now: Instant, *, worker_id: str, generation: int
) -> tuple[list[Change], None]:
    """A worker leaves. One that already left, or was lost, has nothing to lose by it."""
    try:
        worker = run.workers.get(worker_id)
    except WorkerNotFound:
        return [], None
    if worker.generation != generation:
        if worker.state is not State.LOST:
            run.workers.authorize(worker_id, generation, now)  # says who has the name now
        return [], None
    return [WorkerRemoved(worker_id)], None


def report_applied(
    run: Run,
    now: Instant,
    *,
    worker_id: str,
    generation: int,
    version: int,
    digest: str,
    differences: Sequence[str] = (),
) -> tuple[list[Change], Worker]:
    """An explorer says what it has loaded; verified if that is the version, byte for byte.

    A version that was retired while it was being loaded counts: its digest is remembered.
    `differences`: how its tensors differ from the version's, where that is known.
    """
    check_number(version)
    worker = run.workers.authorize(worker_id, generation, now)
    found, problem = finding(run.versions, version, digest, differences)
    verified = found is Finding.EQUAL
    applied = Applied(version, digest, now.wall, verified, found.value, problem)
    worker = replace(worker, applied=applied)
    return [WorkerChanged(worker)], worker


def authorize_push(run: Run, now: Instant, pusher: Pusher) -> None:
    """Raises unless `pusher` may write versions now: the trainer that holds the run, or, while
    nobody does, a caller without a lease."""
    if pusher.worker_id:
        run.workers.authorize_trainer(pusher.worker_id, pusher.generation, now)
    else:
        run.workers.authorize_unleased(now)


def commit(
    run: Run, now: Instant, *, version: Version, keep: int
) -> tuple[list[Change], tuple[Version, bool]]:
    """A complete, verified version becomes visible, and what it makes obsolete retires.

    Answers the version, and whether it was there already (then the new blob is not needed).
    """
    authorize_push(run, now, version.pusher)
    admission = run.versions.admit(version.number, version.digest, version.pusher)
    if admission is Admission.DONE:
        return [], (run.versions.get(version.number), True)
    if admission is Admission.REWIND:
        held = run.versions.get(version.number)
        version = replace(held, pusher=version.pusher, committed_at=now.wall)
    changes = run.commit(replace(version, committed_at=now.wall), keep, now)
    committed = changes[0]
    assert isinstance(committed, VersionCommitted)
    return changes, (committed.version, admission is Admission.REWIND)


def nothing_new(run: Run, now: Instant, *, pusher: Pusher) -> tuple[list[Change], None]:
    """The trainer says that there is no new version: whoever waits is released without one."""
    authorize_push(run, now, pusher)
    return [NothingNew(pusher.worker_id)], None


def save_progress(  # each argument is one field of the request
    run: Run,
    now: Instant,
    *,
    writer: Pusher,
    record_id: str,
    payload: bytes,
    etag: str,
) -> tuple[list[Change], Progress]:
    """A record is replaced whole. With a lease, only by a generation that is not stale."""
    if writer.worker_id:
        run.workers.authorize(writer.worker_id, writer.generation, now)
    new_etag = f"{run.revision + 1:x}"
    progress = run.progress.save(record_id, payload, etag, new_etag, now)
    return [ProgressSaved(progress)], progress


def check_config(
    run: Run,
    now: Instant,
    *,
    worker_id: str,
    config: Mapping[str, Value],
    accept_changes: bool,
) -> tuple[list[Change], tuple[bool, list[Difference]]]:
    """Keeps the first configuration, and compares later ones with it.

    Answers whether this one was stored, and what differed. Raises ConfigMismatch, naming every
    key with its old and new value, unless `accept_changes`.
    """
    del now  # every command has the same first two arguments
    sealed = seal(run.run_id, config)
    if run.config is None:
        return [ConfigSet(worker_id, sealed)], (True, [])
    found = differences(run.config, sealed)
    if not found:
        return [], (False, [])
    if not accept_changes:
        said = {item.key: f"{item.old!r} -> {item.new!r}" for item in found}
        listed = "; ".join(f"{key}: {change}" for key, change in said.items())
        # An error has room for some 40 keys: the number tells whether these are all.
        count = "1 key" if len(said) == 1 else f"{len(said)} keys"
        text = f"the configuration differs from the run's in {count}: {listed}"
        raise ConfigMismatch(text, **said)
    return [ConfigSet(worker_id, sealed)], (True, found)


def pin(
    run: Run, now: Instant, *, number: int, owner: str, ttl: float | None
) -> tuple[list[Change], Version]:
    """Keeps a version."""
    version = run.versions.pin(number, owner, ttl, now)
    return [VersionChanged(version)], version


def unpin(
    run: Run, now: Instant, *, number: int, owner: str, keep: int
) -> tuple[list[Change], Version]:
    """Takes a pin back; a version that only the pin kept retires."""
    version = run.versions.unpin(number, owner, now)
    latest = run.versions.latest()
    superseded = latest is not None and number > latest.number
    newest = [other.number for other in run.versions.all()[:keep]]
    kept = number == run.versions.current or (number in newest and not superseded)
    changes: list[Change] = [VersionChanged(version)]
    if not kept and not version.pinned(now):
        changes.append(removal(version, Cause.SUPERSEDED if superseded else Cause.RETENTION))
    return changes, version


def rollback(run: Run, now: Instant, *, number: int) -> tuple[list[Change], Version]:
    """Explorers are given an earlier version again, as new. Retires nothing: the way back to the
    later ones stays open until a push takes their place."""
    check_number(number)
    version = run.versions.get(number)
    if number == run.versions.current:
        return [], version
    version = replace(version, committed_at=now.wall, revision=run.revision + 1)
    return [VersionCommitted(version)], version


def delete(run: Run, now: Instant, *, number: int) -> tuple[list[Change], None]:
    """Deletes a version that is neither served nor pinned."""
    return [removal(run.versions.delete(number, now), Cause.DELETED)], None


def lose_blob(run: Run, now: Instant, *, number: int, blob_id: str) -> tuple[list[Change], None]:
    """Retires a version whose bytes turned out to be damaged."""
    del now  # every command has the same first two arguments
    version = run.versions.get(number)
    if version.blob_id != blob_id:
        raise InvalidArgument(f"version {number} has another blob", version=number)
    return [removal(version, Cause.DAMAGED)], None
