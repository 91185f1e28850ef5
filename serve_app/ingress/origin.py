"""Which pages may use this server from a browser: those it serves itself, and those of `ingress.allowed_origins`.

    foreign_page(headers, config.allowed_origins)  # "https://evil.example", or None when nothing speaks against it

Browsers send `Origin` and `Sec-Fetch-Site`, which a page cannot forge. Clients that are no browsers send neither, and
are never refused here: an API key is what keeps them out. See https://www.w3.org/TR/fetch-metadata/.
"""

from __future__ import annotations

from collections.abc import Set

from starlette.datastructures import Headers

ANY_ORIGIN = "*"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_OTHER_PAGES = ("cross-site", "same-site")


def foreign_origin(headers: Headers, allowed: Set[str]) -> str | None:
    """The page that sends this request, when it is neither of the same host nor of `allowed`; else None."""
    origin = headers.get("origin")
    if origin is None or ANY_ORIGIN in allowed or origin in allowed or _same_host(origin, headers.get("host", "")):
        return None
    return origin


def foreign_page(headers: Headers, allowed: Set[str]) -> str | None:
    """As `foreign_origin`, also for what a browser loads without `Origin`: images, links, scripts, looks ahead."""
    if (origin := foreign_origin(headers, allowed)) is not None:
        return origin
    if "prefetch" in headers.get("sec-purpose", headers.get("purpose", "")):
        return "a page that looks ahead"
    if "origin" in headers or headers.get("sec-fetch-site", "none") not in _OTHER_PAGES:
        return None
    return None if ANY_ORIGIN in allowed else "another site"


def _same_host(origin: str, host: str) -> bool:
    """Whether a page of `origin` was loaded from `host`. The scheme says nothing: proxies end TLS."""
    scheme, separator, place = origin.partition("://")
    if not separator:
        return False  # "null": a sandboxed frame, or a file
    port = _DEFAULT_PORTS.get(scheme, "")
    return place.lower().removesuffix(port) == host.lower().removesuffix(port) != ""
