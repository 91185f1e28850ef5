"""Opens a retained stream, or finds the one that exists already."""

from __future__ import annotations

from serve_app.core.errors import StreamConflict, StreamNotFound
from serve_app.core.interfaces import KeptState, Router
from serve_app.core.request import GenerationRequest
from serve_app.ingress.resume.envelope import RetainedEnvelope, envelope_of
from serve_app.ingress.resume.response import OpenedAnswer


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
    """The retained stream `key` as it stands; None when there is none, or when it failed, which forgets it.

    Raises `StreamConflict` when another request than that of `fingerprint` began it.
    """
    try:
        found = await router.look_up(key, tenant)
        _check_same(envelope_of(found.request), fingerprint)
        if found.error is None:
            return found
        await router.stop_retained(key, tenant, forget=True)
    except StreamNotFound:
        pass
    return None


def _check_same(envelope: RetainedEnvelope, fingerprint: str) -> None:
    if envelope.fingerprint != fingerprint:
        raise StreamConflict(
            "The stream of this name was begun by another request: repeat that one, or take a new name."
        )
