from serve_app.ingress.grpc.proto import generation_pb2 as _generation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChatRequest(_message.Message):
    __slots__ = ("prompt", "max_tokens", "id", "model", "messages", "sampling", "resume", "stream_id", "position", "cancel", "priority", "deadline_ms", "idempotency_key")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    max_tokens: int
    id: str
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[_generation_pb2.Message]
    sampling: _generation_pb2.Sampling
    resume: bool
    stream_id: str
    position: int
    cancel: bool
    priority: str
    deadline_ms: int
    idempotency_key: str
    def __init__(self, prompt: _Optional[str] = ..., max_tokens: _Optional[int] = ..., id: _Optional[str] = ..., model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[_generation_pb2.Message, _Mapping]]] = ..., sampling: _Optional[_Union[_generation_pb2.Sampling, _Mapping]] = ..., resume: bool = ..., stream_id: _Optional[str] = ..., position: _Optional[int] = ..., cancel: bool = ..., priority: _Optional[str] = ..., deadline_ms: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class ChatResponse(_message.Message):
    __slots__ = ("token", "done", "latency_ms", "id", "position", "stream_id", "model", "queue_position", "finish_reason", "usage", "error")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    token: str
    done: bool
    latency_ms: float
    id: str
    position: int
    stream_id: str
    model: str
    queue_position: int
    finish_reason: str
    usage: _generation_pb2.Usage
    error: _generation_pb2.Error
    def __init__(self, token: _Optional[str] = ..., done: bool = ..., latency_ms: _Optional[float] = ..., id: _Optional[str] = ..., position: _Optional[int] = ..., stream_id: _Optional[str] = ..., model: _Optional[str] = ..., queue_position: _Optional[int] = ..., finish_reason: _Optional[str] = ..., usage: _Optional[_Union[_generation_pb2.Usage, _Mapping]] = ..., error: _Optional[_Union[_generation_pb2.Error, _Mapping]] = ...) -> None: ...
