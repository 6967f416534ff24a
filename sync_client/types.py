"""What the SDK gives back: plain records, no protobuf objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class WorkerState(str, Enum):
    """Where a worker is in the synchronization. `LOST` is set by the server alone."""

    RUNNING = "RUNNING"
    REQUIRE_SYNC = "REQUIRE_SYNC"
    WAITING_SYNC = "WAITING_SYNC"
    STOPPED = "STOPPED"
    LOST = "LOST"

    def __str__(self) -> str:
        return self.value


class WorkerRole(str, Enum):
    """What a worker is for."""

    TRAINER = "trainer"
    EXPLORER = "explorer"

    def __str__(self) -> str:
        return self.value


class WaitOutcome(str, Enum):
    """Why a wait ended."""

    REACHED = "REACHED"
    TIMED_OUT = "TIMED_OUT"
    TRAINER_STOPPED = "TRAINER_STOPPED"
    TRAINER_LOST = "TRAINER_LOST"
    NOTHING_NEW = "NOTHING_NEW"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class PinInfo:
    """Who keeps a version, and until when (Unix seconds; None: until it is taken back)."""

    owner: str
    expire_time: float | None


class VersionSource(str, Enum):
    """Where the weights of a version are."""

    WEIGHTSYNC = "weightsync"
    CHECKPOINT = "checkpoint"
    EXTERNAL = "external"
    RENDEZVOUS = "rendezvous"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class VersionInfo:
    """One weight version.

    `size` is that of its safetensors file in bytes, `revision` the revision of the run at which
    it became visible, `commit_time` in Unix seconds, `pushed_by` a worker's name or "". Unless
    `source` is WEIGHTSYNC it can't be pulled: `reference` is the path of its checkpoint, the words
    of an external reference, or the name of a rendezvous group.
    """

    version: int
    digest: str
    size: int
    revision: int
    tensor_count: int = 0
    commit_time: float = 0.0
    pushed_by: str = ""
    pins: tuple[PinInfo, ...] = ()
    source: VersionSource = VersionSource.WEIGHTSYNC
    reference: str = ""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a version: safetensors' dtype name, its dimensions, its bytes' digest."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    digest: str


@dataclass(frozen=True)
class WorkerStatus:
    """One worker as the server sees it.

    `version` is what it reported to have applied (None: nothing yet), `digest` the one that it
    sent with that, `verified` whether it was then the version's own, and `problem` says in one line
    what is wrong if not ("the bytes are those of version 4, not 5"). Times in Unix seconds, lease
    in seconds.
    """

    name: str
    role: WorkerRole
    state: WorkerState
    generation: int
    version: int | None = None
    verified: bool = False
    lease: float = 0.0
    state_change_time: float = 0.0
    digest: str = ""
    problem: str = ""


@dataclass(frozen=True)
class WaiterStatus:
    """Somebody who waits: a worker's name ("" without a lease), for what, since when."""

    worker: str
    waiting_for: str
    since: float


@dataclass(frozen=True)
class RunStatus:
    """A run at one revision. `trainer_state` is None before a trainer registered."""

    run: str
    revision: int
    trainer_state: WorkerState | None
    explorer_state_counts: Mapping[WorkerState, int]
    workers: tuple[WorkerStatus, ...]
    latest_version: int | None
    latest: VersionInfo | None = None
    waiters: tuple[WaiterStatus, ...] = ()


@dataclass(frozen=True)
class WaitResult:
    """How a wait ended: `version` is the newest one, whether or not it is newer than what was held.

    `rewound`: what was held was superseded, and the newest number is not above it. `revision` is
    that of the run as the answer shows it: given to the next wait, no notice of nothing new is
    missed in between.
    """

    reached: bool
    version: int | None
    digest: str
    rewound: bool
    outcome: WaitOutcome
    trainer_state: WorkerState | None
    revision: int | None = None


@dataclass(frozen=True)
class Pulled:
    """What a pull brought.

    `state_dict` is the mapping that was given as `into`, or a new one. `wire_bytes` is what came
    over the wire, `seconds` the time from the request to the verified tensors.
    """

    version: int
    state_dict: Mapping[str, torch.Tensor] = field(repr=False)
    transport: str
    wire_bytes: int
    seconds: float
    digest: str = ""


@dataclass(frozen=True)
class RunEvent:
    """One change of a run: `kind` says which, the rest what it concerns.

    Kinds: snapshot, created, worker, deregistered_worker, weight_version,
    retired_weight_version, rolled_back, nothing_new, saved_progress, config_changed.
    """

    revision: int
    time: float
    kind: str
    worker: WorkerStatus | None = None
    version: VersionInfo | None = None
    snapshot: RunStatus | None = None
    name: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
