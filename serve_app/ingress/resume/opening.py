"""What a request says about resuming, and the answer that is opened for it: a new one, or one that is kept already.

For example, of a request with an idempotency key:

    resume = resume_headers(http_request.headers)
    offered = replace(request, retention=Retention(key, AnswerEnvelope(...).encode(), grace_s))
    answer = await opened_once(router, offered)   # the one that its key names already, or a new one
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec
import orjson
from starlette.datastructures import Headers

from serve_app.core.errors import InvalidRequest, StreamConflict, StreamNotFound
from serve_app.core.interfaces import KeptState, Router, Skipped, TokenStream
from serve_app.core.request import GenerationRequest
from serve_app.ingress.resume.stream_id import NAME
from serve_app.openai_api.envelope import Envelope
from serve_app.openai_api.parse import Endpoint

RESUME = "x-stream-resume"
LAST_EVENT_ID = "last-event-id"
IDEMPOTENCY_KEY = "idempotency-key"
RETRY_COUNT = "x-retry-count"

_SORTED_UP_TO_BYTES = 1024 * 1024

_YES = ("true", "1")
_NO = ("false", "0", "")


# --- what the headers say


@dataclass(frozen=True, slots=True)
class ResumeHeaders:
    """None and False stand for headers that were not sent."""

    resumable: bool
    last_event_id: str | None
    idempotency_key: str | None
    first_try: bool = False
    """The client says that it has not sent the request before, so that there is nothing to look for."""


def resume_headers(headers: Headers) -> ResumeHeaders | None:
    """What the headers ask for; None when it is nothing. Raises `InvalidRequest` naming the header."""
    if RESUME not in headers and LAST_EVENT_ID not in headers and IDEMPOTENCY_KEY not in headers:
        return None
    resumable = headers.get(RESUME, "").strip().lower()
    if resumable not in _YES + _NO:
        message = "Invalid value for the header 'X-Stream-Resume': it must be 'true' or 'false'."
        raise InvalidRequest(message, "X-Stream-Resume", "invalid_value")
    key = headers.get(IDEMPOTENCY_KEY)
    if key is not None and NAME.fullmatch(key) is None:
        message = "Invalid value for the header 'Idempotency-Key': it must be 1 to 255 printable ASCII characters."
        raise InvalidRequest(message, "Idempotency-Key", "invalid_value")
    last_event_id = headers.get(LAST_EVENT_ID) or None
    if resumable in _NO and last_event_id is None and key is None:
        return None
    return ResumeHeaders(resumable in _YES, last_event_id, key, headers.get(RETRY_COUNT) == "0")


# --- what is kept of the request


class AnswerEnvelope(msgspec.Struct, frozen=True, array_like=True):
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
_decoder = msgspec.msgpack.Decoder(AnswerEnvelope)


def envelope_of(request: GenerationRequest) -> AnswerEnvelope:
    """The envelope of a kept stream. Raises `StreamNotFound` when it is none of a chat or completion."""
    try:
        return _decoder.decode(request.retention.envelope if request.retention is not None else b"")
    except msgspec.DecodeError:
        raise StreamNotFound("The stream of this id is no chat or completion.") from None


def fingerprint(path: str, body: bytes) -> str:
    """Tells requests apart: equal for JSON documents that differ in nothing but spaces and the order of keys.

    A large document counts byte by byte: orjson holds up all threads for 12 ms a MiB, hashing holds up none. So does a
    document that orjson cannot read or write, such as one that nests 254 levels deep.
    """
    try:
        document = body
        if len(body) <= _SORTED_UP_TO_BYTES:
            document = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        document = body
    return hashlib.sha256(path.encode() + b"\n" + document).hexdigest()[:32]


# --- opening


@dataclass(frozen=True, slots=True)
class OpenedAnswer:
    """A kept stream and how its answer is written for one reader."""

    stream: TokenStream
    request: GenerationRequest
    """As it was offered to a router."""
    envelope: AnswerEnvelope
    skipped: Skipped | None = None
    """What the reader has; None when it has nothing of the answer, not even its beginning."""


def opened(router: Router, request: GenerationRequest) -> OpenedAnswer:
    """Offer `request`, which asks for retention. Raises what `Router.open` raises."""
    return OpenedAnswer(router.open(request), request, envelope_of(request))


async def resumed(
    router: Router, key: str, tenant: str, seen: int | None, fingerprint: str | None = None
) -> OpenedAnswer:
    """Go on with the stream `key` after the `seen` tokens that the client has; None when it has nothing of the answer.

    Raises `StreamNotFound`; `StreamConflict` when another request than that of `fingerprint` began it; `InvalidRequest`
    naming `offset` when `seen` is beyond its end.
    """
    stream = await router.resume(key, tenant, seen or 0)
    try:
        envelope = envelope_of(stream.request)
        if fingerprint is not None:
            _check_same(envelope, fingerprint)
        skipped = stream.skipped()
    except BaseException:
        await stream.aclose()
        raise
    return OpenedAnswer(stream, stream.request, envelope, None if seen is None else skipped)


async def opened_once(router: Router, request: GenerationRequest, first_try: bool = False) -> OpenedAnswer:
    """The stream that the same request began before under the same key, from its beginning; else a new one, which on a
    `first_try` is not looked for at other replicas.

    One that failed is begun anew: repeating a request is how clients answer failures. Raises `StreamConflict` when
    another request has begun it. The same request at two routers at the same moment is computed twice.
    """
    assert request.retention is not None
    key, fingerprint = request.retention.key, envelope_of(request).fingerprint
    if not first_try and await unfailed(router, key, request.tenant, fingerprint) is not None:
        return await resumed(router, key, request.tenant, None, fingerprint)
    try:
        return opened(router, request)
    except StreamConflict:
        return await resumed(router, key, request.tenant, None, fingerprint)


async def unfailed(router: Router, key: str, tenant: str, fingerprint: str) -> KeptState | None:
    """The kept stream `key` as it stands; None when there is none, or when it failed, which forgets it.

    Raises `StreamConflict` when another request than that of `fingerprint` began it.
    """
    try:
        found = await router.look_up(key, tenant)
        _check_same(envelope_of(found.request), fingerprint)
        if found.error is None:
            return found
        await router.cancel(key, tenant, forget=True)
    except StreamNotFound:
        pass
    return None


def _check_same(envelope: AnswerEnvelope, fingerprint: str) -> None:
    if envelope.fingerprint != fingerprint:
        raise StreamConflict(
            "The stream of this name was begun by another request: repeat that one, or take a new name."
        )
