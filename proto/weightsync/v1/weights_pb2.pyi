from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from weightsync.v1 import workers_pb2 as _workers_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WeightVersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WEIGHT_VERSION_STATE_UNSPECIFIED: _ClassVar[WeightVersionState]
    WEIGHT_VERSION_STATE_UPLOADING: _ClassVar[WeightVersionState]
    WEIGHT_VERSION_STATE_ACTIVE: _ClassVar[WeightVersionState]
    WEIGHT_VERSION_STATE_FAILED: _ClassVar[WeightVersionState]

class WaitOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WAIT_OUTCOME_UNSPECIFIED: _ClassVar[WaitOutcome]
    WAIT_OUTCOME_REACHED: _ClassVar[WaitOutcome]
    WAIT_OUTCOME_TIMED_OUT: _ClassVar[WaitOutcome]
    WAIT_OUTCOME_TRAINER_STOPPED: _ClassVar[WaitOutcome]
    WAIT_OUTCOME_TRAINER_LOST: _ClassVar[WaitOutcome]
    WAIT_OUTCOME_NOTHING_NEW: _ClassVar[WaitOutcome]
WEIGHT_VERSION_STATE_UNSPECIFIED: WeightVersionState
WEIGHT_VERSION_STATE_UPLOADING: WeightVersionState
WEIGHT_VERSION_STATE_ACTIVE: WeightVersionState
WEIGHT_VERSION_STATE_FAILED: WeightVersionState
WAIT_OUTCOME_UNSPECIFIED: WaitOutcome
WAIT_OUTCOME_REACHED: WaitOutcome
WAIT_OUTCOME_TIMED_OUT: WaitOutcome
WAIT_OUTCOME_TRAINER_STOPPED: WaitOutcome
WAIT_OUTCOME_TRAINER_LOST: WaitOutcome
WAIT_OUTCOME_NOTHING_NEW: WaitOutcome

class WeightVersion(_message.Message):
    __slots__ = ("name", "version", "state", "digest", "size_bytes", "tensor_count", "revision", "commit_time", "pushed_by", "pushed_generation", "pins", "checkpoint_path", "external_reference", "rendezvous")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_COUNT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    PUSHED_BY_FIELD_NUMBER: _ClassVar[int]
    PUSHED_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_PATH_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    state: WeightVersionState
    digest: str
    size_bytes: int
    tensor_count: int
    revision: int
    commit_time: _timestamp_pb2.Timestamp
    pushed_by: str
    pushed_generation: int
    pins: _containers.RepeatedCompositeFieldContainer[Pin]
    checkpoint_path: str
    external_reference: str
    rendezvous: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[_Union[WeightVersionState, str]] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., tensor_count: _Optional[int] = ..., revision: _Optional[int] = ..., commit_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., pushed_by: _Optional[str] = ..., pushed_generation: _Optional[int] = ..., pins: _Optional[_Iterable[_Union[Pin, _Mapping]]] = ..., checkpoint_path: _Optional[str] = ..., external_reference: _Optional[str] = ..., rendezvous: _Optional[str] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("owner", "expire_time")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    owner: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, owner: _Optional[str] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UploadWeightsRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadWeightsHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UploadWeightsHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UploadWeightsHeader(_message.Message):
    __slots__ = ("name", "worker", "generation", "size_bytes", "digest", "shard_index", "shard_count", "request_id", "segment")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHARD_INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    worker: str
    generation: int
    size_bytes: int
    digest: str
    shard_index: int
    shard_count: int
    request_id: str
    segment: str
    def __init__(self, name: _Optional[str] = ..., worker: _Optional[str] = ..., generation: _Optional[int] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ..., shard_index: _Optional[int] = ..., shard_count: _Optional[int] = ..., request_id: _Optional[str] = ..., segment: _Optional[str] = ...) -> None: ...

class UploadWeightsResponse(_message.Message):
    __slots__ = ("weight_version", "already_existed", "next_segment")
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ALREADY_EXISTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    already_existed: bool
    next_segment: str
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ..., already_existed: bool = ..., next_segment: _Optional[str] = ...) -> None: ...

class PublishWeightVersionRequest(_message.Message):
    __slots__ = ("name", "worker", "generation", "checkpoint_path", "external_reference", "rendezvous", "nothing_new", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_PATH_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    NOTHING_NEW_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    worker: str
    generation: int
    checkpoint_path: str
    external_reference: str
    rendezvous: str
    nothing_new: bool
    request_id: str
    def __init__(self, name: _Optional[str] = ..., worker: _Optional[str] = ..., generation: _Optional[int] = ..., checkpoint_path: _Optional[str] = ..., external_reference: _Optional[str] = ..., rendezvous: _Optional[str] = ..., nothing_new: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class PublishWeightVersionResponse(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ...) -> None: ...

class WaitWeightVersionRequest(_message.Message):
    __slots__ = ("parent", "after_version", "max_wait", "worker", "after_digest", "after_revision")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    AFTER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    parent: str
    after_version: int
    max_wait: _duration_pb2.Duration
    worker: str
    after_digest: str
    after_revision: int
    def __init__(self, parent: _Optional[str] = ..., after_version: _Optional[int] = ..., max_wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., worker: _Optional[str] = ..., after_digest: _Optional[str] = ..., after_revision: _Optional[int] = ...) -> None: ...

class WaitWeightVersionResponse(_message.Message):
    __slots__ = ("reached", "weight_version", "trainer_state", "rewound", "outcome", "revision")
    REACHED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAINER_STATE_FIELD_NUMBER: _ClassVar[int]
    REWOUND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    reached: bool
    weight_version: WeightVersion
    trainer_state: _workers_pb2.WorkerState
    rewound: bool
    outcome: WaitOutcome
    revision: int
    def __init__(self, reached: bool = ..., weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ..., trainer_state: _Optional[_Union[_workers_pb2.WorkerState, str]] = ..., rewound: bool = ..., outcome: _Optional[_Union[WaitOutcome, str]] = ..., revision: _Optional[int] = ...) -> None: ...

class GetWeightVersionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetWeightVersionResponse(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ...) -> None: ...

class ListWeightVersionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWeightVersionsResponse(_message.Message):
    __slots__ = ("weight_versions", "next_page_token")
    WEIGHT_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    weight_versions: _containers.RepeatedCompositeFieldContainer[WeightVersion]
    next_page_token: str
    def __init__(self, weight_versions: _Optional[_Iterable[_Union[WeightVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListTensorsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTensorsResponse(_message.Message):
    __slots__ = ("tensors", "next_page_token")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    next_page_token: str
    def __init__(self, tensors: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class TensorInfo(_message.Message):
    __slots__ = ("name", "dtype", "shape", "size_bytes", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    size_bytes: int
    digest: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class DownloadWeightsRequest(_message.Message):
    __slots__ = ("name", "read_offset", "tensor_names", "base_version", "base_digest", "expected_digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READ_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TENSOR_NAMES_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    read_offset: int
    tensor_names: _containers.RepeatedScalarFieldContainer[str]
    base_version: int
    base_digest: str
    expected_digest: str
    def __init__(self, name: _Optional[str] = ..., read_offset: _Optional[int] = ..., tensor_names: _Optional[_Iterable[str]] = ..., base_version: _Optional[int] = ..., base_digest: _Optional[str] = ..., expected_digest: _Optional[str] = ...) -> None: ...

class DownloadWeightsResponse(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: DownloadWeightsHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[DownloadWeightsHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class DownloadWeightsHeader(_message.Message):
    __slots__ = ("weight_version", "size_bytes", "digest")
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    size_bytes: int
    digest: str
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ..., size_bytes: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class PlanUploadRequest(_message.Message):
    __slots__ = ("header", "transports")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    header: UploadWeightsHeader
    transports: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, header: _Optional[_Union[UploadWeightsHeader, _Mapping]] = ..., transports: _Optional[_Iterable[str]] = ...) -> None: ...

class PlanUploadResponse(_message.Message):
    __slots__ = ("locations", "weight_version")
    LOCATIONS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    locations: _containers.RepeatedCompositeFieldContainer[Location]
    weight_version: WeightVersion
    def __init__(self, locations: _Optional[_Iterable[_Union[Location, _Mapping]]] = ..., weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ...) -> None: ...

class PlanDownloadRequest(_message.Message):
    __slots__ = ("name", "tensor_names", "base_version", "base_digest", "transports")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_NAMES_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor_names: _containers.RepeatedScalarFieldContainer[str]
    base_version: int
    base_digest: str
    transports: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., tensor_names: _Optional[_Iterable[str]] = ..., base_version: _Optional[int] = ..., base_digest: _Optional[str] = ..., transports: _Optional[_Iterable[str]] = ...) -> None: ...

class PlanDownloadResponse(_message.Message):
    __slots__ = ("weight_version", "locations")
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    LOCATIONS_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    locations: _containers.RepeatedCompositeFieldContainer[Location]
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ..., locations: _Optional[_Iterable[_Union[Location, _Mapping]]] = ...) -> None: ...

class Location(_message.Message):
    __slots__ = ("shared_memory", "http", "grpc")
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    shared_memory: SharedMemoryLocation
    http: HttpLocation
    grpc: GrpcLocation
    def __init__(self, shared_memory: _Optional[_Union[SharedMemoryLocation, _Mapping]] = ..., http: _Optional[_Union[HttpLocation, _Mapping]] = ..., grpc: _Optional[_Union[GrpcLocation, _Mapping]] = ...) -> None: ...

class SharedMemoryLocation(_message.Message):
    __slots__ = ("path", "challenge_path", "challenge")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_PATH_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    path: str
    challenge_path: str
    challenge: bytes
    def __init__(self, path: _Optional[str] = ..., challenge_path: _Optional[str] = ..., challenge: _Optional[bytes] = ...) -> None: ...

class HttpLocation(_message.Message):
    __slots__ = ("url", "ticket", "expire_time")
    URL_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    url: str
    ticket: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, url: _Optional[str] = ..., ticket: _Optional[str] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GrpcLocation(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PinWeightVersionRequest(_message.Message):
    __slots__ = ("name", "owner", "ttl", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    owner: str
    ttl: _duration_pb2.Duration
    request_id: str
    def __init__(self, name: _Optional[str] = ..., owner: _Optional[str] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class PinWeightVersionResponse(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ...) -> None: ...

class UnpinWeightVersionRequest(_message.Message):
    __slots__ = ("name", "owner", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    owner: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., owner: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class UnpinWeightVersionResponse(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ...) -> None: ...

class DeleteWeightVersionRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteWeightVersionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RollbackRunRequest(_message.Message):
    __slots__ = ("name", "version", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    request_id: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class RollbackRunResponse(_message.Message):
    __slots__ = ("weight_version",)
    WEIGHT_VERSION_FIELD_NUMBER: _ClassVar[int]
    weight_version: WeightVersion
    def __init__(self, weight_version: _Optional[_Union[WeightVersion, _Mapping]] = ...) -> None: ...
