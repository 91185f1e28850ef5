from serve_app.ingress.grpc.proto import generation_pb2 as _generation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LLMRequest(_message.Message):
    __slots__ = ("prompt", "model", "max_tokens", "messages", "sampling")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    model: str
    max_tokens: int
    messages: _containers.RepeatedCompositeFieldContainer[_generation_pb2.Message]
    sampling: _generation_pb2.Sampling
    def __init__(self, prompt: _Optional[str] = ..., model: _Optional[str] = ..., max_tokens: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[_generation_pb2.Message, _Mapping]]] = ..., sampling: _Optional[_Union[_generation_pb2.Sampling, _Mapping]] = ...) -> None: ...

class LLMReply(_message.Message):
    __slots__ = ("response", "id", "model", "finish_reason", "usage", "latency_ms")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    response: str
    id: str
    model: str
    finish_reason: str
    usage: _generation_pb2.Usage
    latency_ms: float
    def __init__(self, response: _Optional[str] = ..., id: _Optional[str] = ..., model: _Optional[str] = ..., finish_reason: _Optional[str] = ..., usage: _Optional[_Union[_generation_pb2.Usage, _Mapping]] = ..., latency_ms: _Optional[float] = ...) -> None: ...
