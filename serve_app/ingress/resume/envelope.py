"""What a retained stream keeps of the request that began it, so that any router replica can go on with its answer."""

from __future__ import annotations

import hashlib

import msgspec
import orjson

from serve_app.core.errors import StreamNotFound
from serve_app.core.request import GenerationRequest
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import Endpoint


class RetainedEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """Goes into `Retention.envelope`, encoded; the same for every protocol, so that each can go on with any stream."""

    endpoint: Endpoint
    id: str
    created: int
    """Unix time in seconds."""
    model: str
    include_usage: bool = False
    fingerprint: str = ""
    """Of the request that began the stream, see `fingerprint`; empty where repeating a request means nothing."""
    continuous_usage: bool = False

    @property
    def envelope(self) -> Envelope:
        """Identity of the answer."""
        return Envelope(self.endpoint, self.id, self.created, self.model)

    def encode(self) -> bytes:
        """The bytes to retain."""
        return _encode(self)


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(RetainedEnvelope)


def envelope_of(request: GenerationRequest) -> RetainedEnvelope:
    """The envelope of a retained stream. Raises `StreamNotFound` when it is none of a chat or completion."""
    try:
        return _decoder.decode(request.retention.envelope if request.retention is not None else b"")
    except msgspec.DecodeError:
        raise StreamNotFound("The stream of this id is no chat or completion.") from None


def fingerprint(path: str, body: bytes) -> str:
    """Tells requests apart: equal for JSON documents that differ in nothing but spaces and the order of keys.

    A document that orjson cannot read or write, such as one that nests 254 levels deep, counts byte by byte.
    """
    try:
        document = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        document = body
    return hashlib.sha256(path.encode() + b"\n" + document).hexdigest()[:32]
