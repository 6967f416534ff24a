from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Progress(_message.Message):
    __slots__ = ("name", "trainer", "explorer", "stage", "etag", "update_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    EXPLORER_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    trainer: TrainerProgress
    explorer: ExplorerProgress
    stage: StageProgress
    etag: str
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., trainer: _Optional[_Union[TrainerProgress, _Mapping]] = ..., explorer: _Optional[_Union[ExplorerProgress, _Mapping]] = ..., stage: _Optional[_Union[StageProgress, _Mapping]] = ..., etag: _Optional[str] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TrainerProgress(_message.Message):
    __slots__ = ("current_step", "experience_index", "sample_strategy_state")
    CURRENT_STEP_FIELD_NUMBER: _ClassVar[int]
    EXPERIENCE_INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_STRATEGY_STATE_FIELD_NUMBER: _ClassVar[int]
    current_step: int
    experience_index: int
    sample_strategy_state: _struct_pb2.Struct
    def __init__(self, current_step: _Optional[int] = ..., experience_index: _Optional[int] = ..., sample_strategy_state: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ExplorerProgress(_message.Message):
    __slots__ = ("current_task_index", "current_step", "taskset_states", "server_url")
    CURRENT_TASK_INDEX_FIELD_NUMBER: _ClassVar[int]
    CURRENT_STEP_FIELD_NUMBER: _ClassVar[int]
    TASKSET_STATES_FIELD_NUMBER: _ClassVar[int]
    SERVER_URL_FIELD_NUMBER: _ClassVar[int]
    current_task_index: int
    current_step: int
    taskset_states: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Struct]
    server_url: str
    def __init__(self, current_task_index: _Optional[int] = ..., current_step: _Optional[int] = ..., taskset_states: _Optional[_Iterable[_Union[_struct_pb2.Struct, _Mapping]]] = ..., server_url: _Optional[str] = ...) -> None: ...

class StageProgress(_message.Message):
    __slots__ = ("current_stage_index",)
    CURRENT_STAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    current_stage_index: int
    def __init__(self, current_stage_index: _Optional[int] = ...) -> None: ...

class SaveProgressRequest(_message.Message):
    __slots__ = ("progress", "worker", "generation", "request_id")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    worker: str
    generation: int
    request_id: str
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., worker: _Optional[str] = ..., generation: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class SaveProgressResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class GetProgressRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetProgressResponse(_message.Message):
    __slots__ = ("progress",)
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...
