"""Who speaks on a socket: the bearer token of a handshake, also from browsers, which can set no headers."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers

SUBPROTOCOL = "serve-app.v1"
"""What the server chooses when it is offered: a browser drops a connection that answers none of its offers."""
_BEARER = "bearer."


def with_token(headers: Headers, token: str) -> Headers:
    """`headers` as they are when the client sends `token` with them."""
    return Headers({**headers, "authorization": f"Bearer {token}"})


def with_offered_token(headers: Headers, subprotocols: Sequence[str]) -> Headers:
    """`headers` with the token that is offered as subprotocol `bearer.TOKEN`, unless they have one themselves."""
    tokens = [offer.removeprefix(_BEARER) for offer in subprotocols if offer.startswith(_BEARER)]
    if "authorization" in headers or not tokens:
        return headers
    return with_token(headers, tokens[0])


def chosen(subprotocols: Sequence[str]) -> str | None:
    """The offer that the server takes: its own protocol, else the token, which only the client itself gets back."""
    if SUBPROTOCOL in subprotocols:
        return SUBPROTOCOL
    return next((offer for offer in subprotocols if offer.startswith(_BEARER)), None)
