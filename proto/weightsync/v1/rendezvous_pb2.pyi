from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Rendezvous(_message.Message):
    __slots__ = ("name", "generation", "members", "missing_workers", "status", "complete", "open_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_WORKERS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    OPEN_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    generation: int
    members: _containers.RepeatedCompositeFieldContainer[RendezvousMember]
    missing_workers: _containers.RepeatedScalarFieldContainer[str]
    status: str
    complete: bool
    open_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., generation: _Optional[int] = ..., members: _Optional[_Iterable[_Union[RendezvousMember, _Mapping]]] = ..., missing_workers: _Optional[_Iterable[str]] = ..., status: _Optional[str] = ..., complete: bool = ..., open_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RendezvousMember(_message.Message):
    __slots__ = ("worker", "rank", "rank_count", "join_time")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    RANK_COUNT_FIELD_NUMBER: _ClassVar[int]
    JOIN_TIME_FIELD_NUMBER: _ClassVar[int]
    worker: str
    rank: int
    rank_count: int
    join_time: _timestamp_pb2.Timestamp
    def __init__(self, worker: _Optional[str] = ..., rank: _Optional[int] = ..., rank_count: _Optional[int] = ..., join_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class JoinRendezvousRequest(_message.Message):
    __slots__ = ("name", "worker", "generation", "rank_count", "leader_address", "leader_port", "worker_count", "version", "max_wait", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    RANK_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEADER_PORT_FIELD_NUMBER: _ClassVar[int]
    WORKER_COUNT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    worker: str
    generation: int
    rank_count: int
    leader_address: str
    leader_port: int
    worker_count: int
    version: int
    max_wait: _duration_pb2.Duration
    request_id: str
    def __init__(self, name: _Optional[str] = ..., worker: _Optional[str] = ..., generation: _Optional[int] = ..., rank_count: _Optional[int] = ..., leader_address: _Optional[str] = ..., leader_port: _Optional[int] = ..., worker_count: _Optional[int] = ..., version: _Optional[int] = ..., max_wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class JoinRendezvousResponse(_message.Message):
    __slots__ = ("rank", "world_size", "leader_address", "leader_port", "version", "rendezvous")
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEADER_PORT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    rank: int
    world_size: int
    leader_address: str
    leader_port: int
    version: int
    rendezvous: Rendezvous
    def __init__(self, rank: _Optional[int] = ..., world_size: _Optional[int] = ..., leader_address: _Optional[str] = ..., leader_port: _Optional[int] = ..., version: _Optional[int] = ..., rendezvous: _Optional[_Union[Rendezvous, _Mapping]] = ...) -> None: ...

class LeaveRendezvousRequest(_message.Message):
    __slots__ = ("name", "worker", "generation", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    worker: str
    generation: int
    request_id: str
    def __init__(self, name: _Optional[str] = ..., worker: _Optional[str] = ..., generation: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class LeaveRendezvousResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRendezvousRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetRendezvousResponse(_message.Message):
    __slots__ = ("rendezvous",)
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    rendezvous: Rendezvous
    def __init__(self, rendezvous: _Optional[_Union[Rendezvous, _Mapping]] = ...) -> None: ...
