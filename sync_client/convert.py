"""From protobuf messages to the SDK's records."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sync_client.types import (
    PinInfo,
    RunEvent,
    RunStatus,
    VersionInfo,
    VersionSource,
    WaiterStatus,
    WaitOutcome,
    WaitResult,
    WorkerRole,
    WorkerState,
    WorkerStatus,
)
from weightsync import names
from weightsync.v1 import runs_pb2, weights_pb2, workers_pb2

_NANOS = 1_000_000_000
_STATE_NUMBERS: dict[WorkerState, workers_pb2.WorkerState] = {
    WorkerState.RUNNING: workers_pb2.WORKER_STATE_RUNNING,
    WorkerState.REQUIRE_SYNC: workers_pb2.WORKER_STATE_REQUIRE_SYNC,
    WorkerState.WAITING_SYNC: workers_pb2.WORKER_STATE_WAITING_SYNC,
    WorkerState.STOPPED: workers_pb2.WORKER_STATE_STOPPED,
    WorkerState.LOST: workers_pb2.WORKER_STATE_LOST,
}
_STATES: dict[int, WorkerState] = {number: state for state, number in _STATE_NUMBERS.items()}
_ROLE_NUMBERS: dict[WorkerRole, workers_pb2.WorkerRole] = {
    WorkerRole.TRAINER: workers_pb2.WORKER_ROLE_TRAINER,
    WorkerRole.EXPLORER: workers_pb2.WORKER_ROLE_EXPLORER,
}
_ROLES: dict[int, WorkerRole] = {number: role for role, number in _ROLE_NUMBERS.items()}
_OUTCOMES = {
    number: WaitOutcome(name.removeprefix("WAIT_OUTCOME_"))
    for name, number in weights_pb2.WaitOutcome.items()
    if number
}
# By the field of WeightVersion that says where the weights are.
_SOURCES: dict[str | None, VersionSource] = {
    None: VersionSource.WEIGHTSYNC,
    "checkpoint_path": VersionSource.CHECKPOINT,
    "external_reference": VersionSource.EXTERNAL,
    "rendezvous": VersionSource.RENDEZVOUS,
}


def seconds(stamp: Timestamp | Duration) -> float:
    """A Timestamp or Duration as seconds."""
    return stamp.seconds + stamp.nanos / _NANOS


def duration(value: float) -> Duration:
    """Seconds as a Duration. Negative ones too: it is the server who refuses them."""
    nanos = round(value * _NANOS)
    whole = int(nanos / _NANOS)
    return Duration(seconds=whole, nanos=nanos - whole * _NANOS)


def state_number(state: WorkerState) -> workers_pb2.WorkerState:
    """The enum value of a state."""
    return _STATE_NUMBERS[state]


def role_number(role: WorkerRole) -> workers_pb2.WorkerRole:
    """The enum value of a role."""
    return _ROLE_NUMBERS[role]


def source_field(source: VersionSource) -> str:
    """The field of a message that says so. Raises KeyError for WEIGHTSYNC, which has none."""
    return {value: key for key, value in _SOURCES.items() if key is not None}[source]


def version(message: weights_pb2.WeightVersion) -> VersionInfo:
    """A WeightVersion."""
    field = message.WhichOneof("source")
    return VersionInfo(
        version=message.version,
        digest=message.digest,
        size=message.size_bytes,
        revision=message.revision,
        tensor_count=message.tensor_count,
        commit_time=seconds(message.commit_time),
        pushed_by=names.parse_worker(message.pushed_by)[1] if message.pushed_by else "",
        pins=tuple(
            PinInfo(pin.owner, seconds(pin.expire_time) if pin.HasField("expire_time") else None)
            for pin in message.pins
        ),
        source=_SOURCES[field],
        reference="" if field is None else getattr(message, field),
    )


def worker(message: workers_pb2.Worker) -> WorkerStatus:
    """A Worker."""
    applied = message.applied_version if message.HasField("applied_version") else None
    return WorkerStatus(
        name=names.parse_worker(message.name)[1],
        role=_ROLES[message.role],
        state=_STATES[message.state],
        generation=message.generation,
        version=None if applied is None else applied.version,
        verified=applied is not None and applied.verified,
        lease=seconds(message.lease_duration),
        state_change_time=seconds(message.state_change_time),
        digest="" if applied is None else applied.digest,
        problem="" if applied is None else applied.problem,
    )


def run(message: runs_pb2.Run) -> RunStatus:
    """A Run."""
    latest = None
    if message.HasField("latest_weight_version"):
        latest = version(message.latest_weight_version)
    return RunStatus(
        run=names.parse_run(message.name),
        revision=message.revision,
        trainer_state=_STATES.get(message.trainer_state),
        explorer_state_counts={
            _STATES[item.state]: item.count for item in message.explorer_state_counts
        },
        workers=tuple(worker(item) for item in message.workers),
        latest_version=None if latest is None else latest.version,
        latest=latest,
        waiters=tuple(
            WaiterStatus(
                names.parse_worker(item.worker)[1] if item.worker else "",
                item.waiting_for,
                seconds(item.wait_start_time),
            )
            for item in message.waiters
        ),
    )


def wait_result(message: weights_pb2.WaitWeightVersionResponse) -> WaitResult:
    """The answer of WaitWeightVersion."""
    found = message.weight_version if message.HasField("weight_version") else None
    return WaitResult(
        reached=message.reached,
        version=None if found is None else found.version,
        digest="" if found is None else found.digest,
        rewound=message.rewound,
        outcome=_OUTCOMES[message.outcome],
        trainer_state=_STATES.get(message.trainer_state),
        revision=message.revision or None,  # a server of the first release says none
    )


def event(message: runs_pb2.WatchRunResponse) -> RunEvent:
    """One message of WatchRun."""
    kind = message.WhichOneof("change") or "unknown"
    revision, time = message.revision, seconds(message.event_time)
    if kind == "snapshot":
        return RunEvent(revision, time, kind, snapshot=run(message.snapshot))
    if kind == "worker":
        status = worker(message.worker)
        return RunEvent(revision, time, kind, worker=status, name=status.name)
    if kind == "deregistered_worker":
        name = names.parse_worker(message.deregistered_worker)[1]
        return RunEvent(revision, time, kind, name=name)
    if kind in ("weight_version", "rolled_back"):
        found = (
            message.weight_version
            if kind == "weight_version"
            else message.rolled_back.weight_version
        )
        info = version(found)
        return RunEvent(revision, time, kind, version=info, name=str(info.version))
    if kind == "retired_weight_version":
        gone = message.retired_weight_version
        number = names.parse_version(gone.name)[1]
        detail = {"digest": gone.digest, "cause": gone.cause}
        return RunEvent(revision, time, kind, name=str(number), detail=detail)
    return RunEvent(revision, time, kind)
