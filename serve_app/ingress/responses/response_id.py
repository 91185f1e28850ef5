"""Ids of responses: `resp_` and the signed name of the stream that generates them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.core.cut_text import cut
from serve_app.core.errors import StreamNotFound
from serve_app.core.interfaces import Router
from serve_app.ingress.resume.stream_id import sign, verify

_PREFIX = "resp_"


def signed_response_id(router: Router, key: str, tenant: str) -> str:
    """The id under which `tenant` finds the response that the stream `key` generates."""
    return _PREFIX + sign(router.signing_key, key, tenant)


def response_key(router: Router, given: str, tenant: str) -> str:
    """The key of the stream of response `given`. Raises `StreamNotFound`."""
    if not given.startswith(_PREFIX):
        raise StreamNotFound("This is no id of a response.")
    return verify(router.signing_key, given.removeprefix(_PREFIX), tenant)


@contextmanager
def response_found(given: str) -> Iterator[None]:
    """Tells `StreamNotFound` in the words of the Responses API."""
    try:
        yield
    except StreamNotFound:
        message = f"Response with id '{cut(given)}' not found."
        raise StreamNotFound(message, None, "response_not_found") from None
