from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_ROLE_UNSPECIFIED: _ClassVar[WorkerRole]
    WORKER_ROLE_TRAINER: _ClassVar[WorkerRole]
    WORKER_ROLE_EXPLORER: _ClassVar[WorkerRole]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_RUNNING: _ClassVar[WorkerState]
    WORKER_STATE_REQUIRE_SYNC: _ClassVar[WorkerState]
    WORKER_STATE_WAITING_SYNC: _ClassVar[WorkerState]
    WORKER_STATE_STOPPED: _ClassVar[WorkerState]
    WORKER_STATE_LOST: _ClassVar[WorkerState]

class AppliedFinding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPLIED_FINDING_UNSPECIFIED: _ClassVar[AppliedFinding]
    APPLIED_FINDING_EQUAL: _ClassVar[AppliedFinding]
    APPLIED_FINDING_NOTHING: _ClassVar[AppliedFinding]
    APPLIED_FINDING_OTHER_VERSION: _ClassVar[AppliedFinding]
    APPLIED_FINDING_DIFFERENT: _ClassVar[AppliedFinding]
    APPLIED_FINDING_UNKNOWN_VERSION: _ClassVar[AppliedFinding]
WORKER_ROLE_UNSPECIFIED: WorkerRole
WORKER_ROLE_TRAINER: WorkerRole
WORKER_ROLE_EXPLORER: WorkerRole
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_RUNNING: WorkerState
WORKER_STATE_REQUIRE_SYNC: WorkerState
WORKER_STATE_WAITING_SYNC: WorkerState
WORKER_STATE_STOPPED: WorkerState
WORKER_STATE_LOST: WorkerState
APPLIED_FINDING_UNSPECIFIED: AppliedFinding
APPLIED_FINDING_EQUAL: AppliedFinding
APPLIED_FINDING_NOTHING: AppliedFinding
APPLIED_FINDING_OTHER_VERSION: AppliedFinding
APPLIED_FINDING_DIFFERENT: AppliedFinding
APPLIED_FINDING_UNKNOWN_VERSION: AppliedFinding

class Worker(_message.Message):
    __slots__ = ("name", "role", "state", "generation", "lease_duration", "register_time", "state_change_time", "applied_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    REGISTER_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_CHANGE_TIME_FIELD_NUMBER: _ClassVar[int]
    APPLIED_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    role: WorkerRole
    state: WorkerState
    generation: int
    lease_duration: _duration_pb2.Duration
    register_time: _timestamp_pb2.Timestamp
    state_change_time: _timestamp_pb2.Timestamp
    applied_version: AppliedVersion
    def __init__(self, name: _Optional[str] = ..., role: _Optional[_Union[WorkerRole, str]] = ..., state: _Optional[_Union[WorkerState, str]] = ..., generation: _Optional[int] = ..., lease_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., register_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., state_change_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., applied_version: _Optional[_Union[AppliedVersion, _Mapping]] = ...) -> None: ...

class AppliedVersion(_message.Message):
    __slots__ = ("version", "digest", "report_time", "verified", "finding", "problem")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    FINDING_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    version: int
    digest: str
    report_time: _timestamp_pb2.Timestamp
    verified: bool
    finding: AppliedFinding
    problem: str
    def __init__(self, version: _Optional[int] = ..., digest: _Optional[str] = ..., report_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., verified: bool = ..., finding: _Optional[_Union[AppliedFinding, str]] = ..., problem: _Optional[str] = ...) -> None: ...

class AppliedTensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    digest: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., digest: _Optional[str] = ...) -> None: ...

class RegisterWorkerRequest(_message.Message):
    __slots__ = ("parent", "worker_id", "role", "lease_duration", "request_id", "resume_generation")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_GENERATION_FIELD_NUMBER: _ClassVar[int]
    parent: str
    worker_id: str
    role: WorkerRole
    lease_duration: _duration_pb2.Duration
    request_id: str
    resume_generation: int
    def __init__(self, parent: _Optional[str] = ..., worker_id: _Optional[str] = ..., role: _Optional[_Union[WorkerRole, str]] = ..., lease_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ..., resume_generation: _Optional[int] = ...) -> None: ...

class RegisterWorkerResponse(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("name", "generation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ...) -> None: ...

class SetWorkerStateRequest(_message.Message):
    __slots__ = ("name", "generation", "state", "expected_state", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_STATE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    state: WorkerState
    expected_state: WorkerState
    request_id: str
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., state: _Optional[_Union[WorkerState, str]] = ..., expected_state: _Optional[_Union[WorkerState, str]] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetWorkerStateResponse(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers", "next_page_token")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[Worker]
    next_page_token: str
    def __init__(self, workers: _Optional[_Iterable[_Union[Worker, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeregisterWorkerRequest(_message.Message):
    __slots__ = ("name", "generation", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    request_id: str
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeregisterWorkerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReportAppliedVersionRequest(_message.Message):
    __slots__ = ("name", "generation", "version", "digest", "request_id", "tensors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    version: int
    digest: str
    request_id: str
    tensors: _containers.RepeatedCompositeFieldContainer[AppliedTensor]
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., request_id: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[AppliedTensor, _Mapping]]] = ...) -> None: ...

class ReportAppliedVersionResponse(_message.Message):
    __slots__ = ("worker",)
    WORKER_FIELD_NUMBER: _ClassVar[int]
    worker: Worker
    def __init__(self, worker: _Optional[_Union[Worker, _Mapping]] = ...) -> None: ...
