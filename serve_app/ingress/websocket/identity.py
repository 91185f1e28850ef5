"""The token of a handshake, also from browsers, which can set no headers."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers

from serve_app.ingress.identity import bearer_token, clean_token

SUBPROTOCOL = "serve-app.v1"
"""What the server chooses when it is offered: a browser drops a connection that answers none of its offers."""
_BEARER = "bearer."


def handshake_token(headers: Headers, subprotocols: Sequence[str]) -> str | None:
    """The bearer token of the headers, else the one that is offered as subprotocol `bearer.TOKEN`."""
    if "authorization" in headers:
        return bearer_token(headers)
    return next((clean_token(offer.removeprefix(_BEARER)) for offer in subprotocols if offer.startswith(_BEARER)), None)


def chosen(subprotocols: Sequence[str]) -> str | None:
    """The offer that the server takes: its own protocol, else the token, which only the client itself gets back."""
    if SUBPROTOCOL in subprotocols:
        return SUBPROTOCOL
    return next((offer for offer in subprotocols if offer.startswith(_BEARER)), None)
