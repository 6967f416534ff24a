"""Between protobuf messages and the domain's records."""

from __future__ import annotations

import math

from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from sync_server.domain.applied import Finding
from sync_server.domain.configs import Value
from sync_server.domain.errors import (
    InvalidArgument,
    InvalidDuration,
    InvalidPageToken,
    InvalidState,
)
from sync_server.domain.runs import Run
from sync_server.domain.versions import Reference, Source, Version
from sync_server.domain.waits import Outcome
from sync_server.domain.workers import Role, State, Worker
from sync_server.waiting import Parked
from weightsync import names
from weightsync.v1 import runs_pb2, weights_pb2, workers_pb2

MAX_PAGE = 1000
_NANOS = 1_000_000_000
# Beyond this a duration is a mistake: ten thousand years, as in duration.proto.
_MAX_DURATION_SECONDS = 315_576_000_000

ROLES: dict[int, Role] = {
    workers_pb2.WORKER_ROLE_TRAINER: Role.TRAINER,
    workers_pb2.WORKER_ROLE_EXPLORER: Role.EXPLORER,
}
STATES: dict[int, State] = {
    workers_pb2.WORKER_STATE_RUNNING: State.RUNNING,
    workers_pb2.WORKER_STATE_REQUIRE_SYNC: State.REQUIRE_SYNC,
    workers_pb2.WORKER_STATE_WAITING_SYNC: State.WAITING_SYNC,
    workers_pb2.WORKER_STATE_STOPPED: State.STOPPED,
    workers_pb2.WORKER_STATE_LOST: State.LOST,
}
_ROLE_NUMBERS: dict[Role, workers_pb2.WorkerRole] = {
    Role.TRAINER: workers_pb2.WORKER_ROLE_TRAINER,
    Role.EXPLORER: workers_pb2.WORKER_ROLE_EXPLORER,
}
_STATE_NUMBERS: dict[State, workers_pb2.WorkerState] = {
    State.RUNNING: workers_pb2.WORKER_STATE_RUNNING,
    State.REQUIRE_SYNC: workers_pb2.WORKER_STATE_REQUIRE_SYNC,
    State.WAITING_SYNC: workers_pb2.WORKER_STATE_WAITING_SYNC,
    State.STOPPED: workers_pb2.WORKER_STATE_STOPPED,
    State.LOST: workers_pb2.WORKER_STATE_LOST,
}
_FINDINGS: dict[str, workers_pb2.AppliedFinding] = {
    Finding.EQUAL.value: workers_pb2.APPLIED_FINDING_EQUAL,
    Finding.NOTHING.value: workers_pb2.APPLIED_FINDING_NOTHING,
    Finding.OTHER_VERSION.value: workers_pb2.APPLIED_FINDING_OTHER_VERSION,
    Finding.DIFFERENT.value: workers_pb2.APPLIED_FINDING_DIFFERENT,
    Finding.UNKNOWN_VERSION.value: workers_pb2.APPLIED_FINDING_UNKNOWN_VERSION,
}
_OUTCOMES: dict[Outcome, weights_pb2.WaitOutcome] = {
    Outcome.REACHED: weights_pb2.WAIT_OUTCOME_REACHED,
    Outcome.TIMED_OUT: weights_pb2.WAIT_OUTCOME_TIMED_OUT,
    Outcome.TRAINER_STOPPED: weights_pb2.WAIT_OUTCOME_TRAINER_STOPPED,
    Outcome.TRAINER_LOST: weights_pb2.WAIT_OUTCOME_TRAINER_LOST,
    Outcome.NOTHING_NEW: weights_pb2.WAIT_OUTCOME_NOTHING_NEW,
}
# The fields of that name in WeightVersion and in PublishWeightVersionRequest.
SOURCE_FIELDS: dict[Source, str] = {
    Source.CHECKPOINT: "checkpoint_path",
    Source.EXTERNAL: "external_reference",
    Source.RENDEZVOUS: "rendezvous",
}


# --- in


def role(number: int) -> Role:
    """A role from its enum. Raises InvalidArgument."""
    found = ROLES.get(number)
    if found is None:
        raise InvalidArgument(f"role {number}: trainer or explorer is allowed", field="role")
    return found


def state(number: int) -> State:
    """A state from its enum. Raises InvalidState."""
    found = STATES.get(number)
    if found is None:
        raise InvalidState(f"state {number} can't be set", field="state")
    return found


def seconds(duration: Duration, field: str, maximum: float) -> float:
    """A duration in seconds. Raises InvalidDuration for a negative, malformed or absurd one."""
    sane = abs(duration.seconds) <= _MAX_DURATION_SECONDS and abs(duration.nanos) < _NANOS
    value = duration.seconds + duration.nanos / _NANOS
    if not sane or duration.seconds < 0 or duration.nanos < 0 or value > maximum:
        raise InvalidDuration(f"{field} of {value:g} s: 0 to {maximum:g} s is allowed", field=field)
    return value


def own_worker(name: str, run_id: str) -> str:
    """The worker id of an optional worker name ("" stays ""), which must be of that run."""
    if not name:
        return ""
    worker_run, worker_id = names.parse_worker(name)
    if worker_run != run_id:
        raise InvalidArgument(f"worker {name!r} is not of run {run_id!r}", field="worker")
    return worker_id


def reference(request: weights_pb2.PublishWeightVersionRequest) -> Reference | None:
    """Where the weights are; None for `nothing_new`. Raises InvalidArgument without either."""
    field = request.WhichOneof("source")
    if field == "nothing_new" and request.nothing_new:
        return None
    for source, name in SOURCE_FIELDS.items():
        if name == field:
            return Reference(source, getattr(request, name))
    raise InvalidArgument(
        f"source: one of {', '.join(SOURCE_FIELDS.values())} or nothing_new is needed",
        field="source",
    )


def plain(config: Struct) -> dict[str, Value]:
    """A Struct as plain data. Numbers are doubles on the wire; whole ones become integers."""
    content: dict[str, Value] = {key: _plain(item) for key, item in config.fields.items()}
    return content


def _plain(item: struct_pb2.Value) -> Value:
    kind = item.WhichOneof("kind")
    if kind == "struct_value":
        return plain(item.struct_value)
    if kind == "list_value":
        return [_plain(element) for element in item.list_value.values]
    if kind == "number_value":
        number = item.number_value
        if not math.isfinite(number):
            raise InvalidArgument(f"the number {number}: JSON has none such", field="config")
        return int(number) if number.is_integer() and abs(number) <= 2**53 else number
    if kind == "bool_value":
        return item.bool_value
    return item.string_value if kind == "string_value" else None


def page(page_size: int, page_token: str) -> tuple[int, int]:
    """(start, stop) of the page that is asked for. Raises InvalidArgument, InvalidPageToken."""
    if page_size < 0:
        raise InvalidArgument(f"page_size {page_size}: 0 or more is allowed", field="page_size")
    start = 0
    if page_token:
        if not (page_token.isascii() and page_token.isdigit() and len(page_token) < 12):
            raise InvalidPageToken(f"page token {page_token[:32]!r} is not from this server")
        start = int(page_token)
    return start, start + min(page_size or MAX_PAGE, MAX_PAGE)


def next_page_token(stop: int, total: int) -> str:
    """The token of the page that begins at `stop`, "" where there is none."""
    return str(stop) if stop < total else ""


# --- out


def timestamp(wall: float) -> Timestamp:
    """Wall seconds as a Timestamp."""
    whole, fraction = divmod(wall, 1)
    return Timestamp(seconds=int(whole), nanos=int(fraction * _NANOS))


def duration(value: float) -> Duration:
    """Seconds as a Duration."""
    whole, fraction = divmod(value, 1)
    return Duration(seconds=int(whole), nanos=int(fraction * _NANOS))


def worker(run_id: str, record: Worker) -> workers_pb2.Worker:
    """A worker as a message."""
    message = workers_pb2.Worker(
        name=names.worker_name(run_id, record.worker_id),
        role=_ROLE_NUMBERS[record.role],
        state=_STATE_NUMBERS[record.state],
        generation=record.generation,
        lease_duration=duration(record.lease.duration),
        register_time=timestamp(record.registered_at),
        state_change_time=timestamp(record.state_changed_at),
    )
    if record.applied is not None:
        applied = record.applied
        message.applied_version.CopyFrom(
            workers_pb2.AppliedVersion(
                version=applied.version,
                digest=applied.digest,
                report_time=timestamp(applied.reported_at),
                verified=applied.verified,
                finding=_FINDINGS.get(applied.finding),
                problem=applied.problem,
            )
        )
    return message


def version(run_id: str, record: Version) -> weights_pb2.WeightVersion:
    """A visible version as a message."""
    pushed_by = record.pusher.worker_id
    message = weights_pb2.WeightVersion(
        name=names.version_name(run_id, record.number),
        version=record.number,
        state=weights_pb2.WEIGHT_VERSION_STATE_ACTIVE,
        digest=record.digest,
        size_bytes=record.size_bytes,
        tensor_count=record.tensor_count,
        revision=record.revision,
        commit_time=timestamp(record.committed_at),
        pushed_by=names.worker_name(run_id, pushed_by) if pushed_by else "",
        pushed_generation=record.pusher.generation,
        pins=[
            weights_pb2.Pin(
                owner=pin.owner,
                expire_time=None if pin.expires_at is None else timestamp(pin.expires_at),
            )
            for pin in record.pins
        ],
    )
    if record.reference is not None:
        setattr(message, SOURCE_FIELDS[record.reference.source], record.reference.text)
    return message


def value(item: Value) -> struct_pb2.Value:
    """Plain data as a Value."""
    if item is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(item, bool):
        return struct_pb2.Value(bool_value=item)
    if isinstance(item, int | float):
        return struct_pb2.Value(number_value=item)
    if isinstance(item, str):
        return struct_pb2.Value(string_value=item)
    message = struct_pb2.Value()
    if isinstance(item, list):
        message.list_value.values.extend(value(element) for element in item)
        message.list_value.SetInParent()
    else:
        message.struct_value.SetInParent()
        for key, element in item.items():
            message.struct_value.fields[key].CopyFrom(value(element))
    return message


def trainer_state(run: Run) -> workers_pb2.WorkerState:
    """The state of the run's trainer; UNSPECIFIED before one registered."""
    trainer = run.workers.trainer()
    if trainer is None:
        return workers_pb2.WORKER_STATE_UNSPECIFIED
    return _STATE_NUMBERS[trainer.state]


def outcome(value: Outcome) -> weights_pb2.WaitOutcome:
    """Why a wait ended, as an enum."""
    return _OUTCOMES[value]


def run(record: Run, parked: list[Parked]) -> runs_pb2.Run:
    """A run as a message."""
    run_id = record.run_id
    latest = record.versions.latest()
    counts = record.workers.explorer_counts()
    return runs_pb2.Run(
        name=names.run_name(run_id),
        revision=record.revision,
        trainer_state=trainer_state(record),
        explorer_state_counts=[
            runs_pb2.WorkerStateCount(state=_STATE_NUMBERS[state], count=counts[state])
            for state in State
            if state in counts
        ],
        workers=[worker(run_id, item) for item in record.workers.all()],
        latest_weight_version=None if latest is None else version(run_id, latest),
        waiters=[
            runs_pb2.Waiter(
                worker=names.worker_name(run_id, item.who) if item.who else "",
                waiting_for=item.what,
                wait_start_time=timestamp(item.since),
            )
            for item in parked
        ],
        create_time=timestamp(record.created_at),
    )
