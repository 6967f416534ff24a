from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from weightsync.v1 import rendezvous_pb2 as _rendezvous_pb2
from weightsync.v1 import weights_pb2 as _weights_pb2
from weightsync.v1 import workers_pb2 as _workers_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Run(_message.Message):
    __slots__ = ("name", "revision", "trainer_state", "explorer_state_counts", "workers", "latest_weight_version", "waiters", "rendezvous", "create_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TRAINER_STATE_FIELD_NUMBER: _ClassVar[int]
    EXPLORER_STATE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    LATEST_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    trainer_state: _workers_pb2.WorkerState
    explorer_state_counts: _containers.RepeatedCompositeFieldContainer[WorkerStateCount]
    workers: _containers.RepeatedCompositeFieldContainer[_workers_pb2.Worker]
    latest_weight_version: _weights_pb2.WeightVersion
    waiters: _containers.RepeatedCompositeFieldContainer[Waiter]
    rendezvous: _containers.RepeatedCompositeFieldContainer[_rendezvous_pb2.Rendezvous]
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ..., trainer_state: _Optional[_Union[_workers_pb2.WorkerState, str]] = ..., explorer_state_counts: _Optional[_Iterable[_Union[WorkerStateCount, _Mapping]]] = ..., workers: _Optional[_Iterable[_Union[_workers_pb2.Worker, _Mapping]]] = ..., latest_weight_version: _Optional[_Union[_weights_pb2.WeightVersion, _Mapping]] = ..., waiters: _Optional[_Iterable[_Union[Waiter, _Mapping]]] = ..., rendezvous: _Optional[_Iterable[_Union[_rendezvous_pb2.Rendezvous, _Mapping]]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WorkerStateCount(_message.Message):
    __slots__ = ("state", "count")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    state: _workers_pb2.WorkerState
    count: int
    def __init__(self, state: _Optional[_Union[_workers_pb2.WorkerState, str]] = ..., count: _Optional[int] = ...) -> None: ...

class Waiter(_message.Message):
    __slots__ = ("worker", "waiting_for", "wait_start_time")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    WAIT_START_TIME_FIELD_NUMBER: _ClassVar[int]
    worker: str
    waiting_for: str
    wait_start_time: _timestamp_pb2.Timestamp
    def __init__(self, worker: _Optional[str] = ..., waiting_for: _Optional[str] = ..., wait_start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("name", "after_revision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    after_revision: int
    def __init__(self, name: _Optional[str] = ..., after_revision: _Optional[int] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("revision", "event_time", "snapshot", "worker", "deregistered_worker", "weight_version", "retired_weight_version", "rolled_back", "nothing_new", "saved_progress", "config_changed", "created")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    DEREGISTERED_WORKER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    RETIRED_WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    NOTHING_NEW_FIELD_NUMBER: _ClassVar[int]
    SAVED_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_CHANGED_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    event_time: _timestamp_pb2.Timestamp
    snapshot: Run
    worker: _workers_pb2.Worker
    deregistered_worker: str
    weight_version: _weights_pb2.WeightVersion
    retired_weight_version: RetiredWeightVersion
    rolled_back: RolledBack
    nothing_new: NothingNew
    saved_progress: str
    config_changed: ConfigChanged
    created: RunCreated
    def __init__(self, revision: _Optional[int] = ..., event_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., snapshot: _Optional[_Union[Run, _Mapping]] = ..., worker: _Optional[_Union[_workers_pb2.Worker, _Mapping]] = ..., deregistered_worker: _Optional[str] = ..., weight_version: _Optional[_Union[_weights_pb2.WeightVersion, _Mapping]] = ..., retired_weight_version: _Optional[_Union[RetiredWeightVersion, _Mapping]] = ..., rolled_back: _Optional[_Union[RolledBack, _Mapping]] = ..., nothing_new: _Optional[_Union[NothingNew, _Mapping]] = ..., saved_progress: _Optional[str] = ..., config_changed: _Optional[_Union[ConfigChanged, _Mapping]] = ..., created: _Optional[_Union[RunCreated, _Mapping]] = ...) -> None: ...

class RunCreated(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RetiredWeightVersion(_message.Message):
    __slots__ = ("name", "digest", "cause")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    cause: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., cause: _Optional[str] = ...) -> None: ...

class RolledBack(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: _weights_pb2.WeightVersion
    def __init__(self, weight_version: _Optional[_Union[_weights_pb2.WeightVersion, _Mapping]] = ...) -> None: ...

class NothingNew(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: str
    def __init__(self, worker: _Optional[str] = ...) -> None: ...

class ConfigChanged(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: str
    def __init__(self, worker: _Optional[str] = ...) -> None: ...

class CheckRunConfigRequest(_message.Message):
    __slots__ = ("name", "worker", "config", "accept_changes", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_CHANGES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    worker: str
    config: _struct_pb2.Struct
    accept_changes: bool
    request_id: str
    def __init__(self, name: _Optional[str] = ..., worker: _Optional[str] = ..., config: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., accept_changes: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class CheckRunConfigResponse(_message.Message):
    __slots__ = ("stored", "differences")
    STORED_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    stored: bool
    differences: _containers.RepeatedCompositeFieldContainer[ConfigDifference]
    def __init__(self, stored: bool = ..., differences: _Optional[_Iterable[_Union[ConfigDifference, _Mapping]]] = ...) -> None: ...

class ConfigDifference(_message.Message):
    __slots__ = ("key", "old_value", "new_value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OLD_VALUE_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    old_value: _struct_pb2.Value
    new_value: _struct_pb2.Value
    def __init__(self, key: _Optional[str] = ..., old_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., new_value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
