"""HTTP/1 as clients speak it, for the uvicorn that Ray Serve runs: two things that uvicorn 0.54 gets wrong.

* A request that offers another protocol (`Connection: Upgrade`, `Upgrade: h2c`, as Java's HTTP client sends with each
  one) loses its body, or has it read as the next request. A server may ignore an offer (RFC 9110, section 7.8): the
  request is parsed once more without it. WebSockets are upgraded as before.
* An answer of unknown length to an HTTP/1.0 client is sent in chunks, which such a client does not know (RFC 9112,
  section 6.1). It ends with the connection instead.

Both hold for uvicorn's own parser in C, `httptools`; with `h11` there is nothing to mend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httptools
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_ABOUT_UPGRADES = (b"upgrade", b"connection", b"http2-settings")


def install() -> None:
    """Let every uvicorn that starts in this process from now on speak so. Idempotent."""
    if auto.AutoHTTPProtocol is HttpToolsProtocol:
        auto.AutoHTTPProtocol = HttpProtocol


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for offers that are not taken."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            elif self._offers_other():
                self._parse_without_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")

    def on_headers_complete(self) -> None:
        """Begin the request, unless it is to be parsed again."""
        if self._offers_other():
            self.scope["method"] = self.parser.get_method().decode("ascii")
            self.scope["http_version"] = self.parser.get_http_version()
            return
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0" and self.cycle.scope is self.scope:
            # uvicorn makes the object itself; what differs is one method.
            self.cycle.__class__ = _EndsByClosing

    def on_body(self, body: bytes) -> None:
        """See uvicorn."""
        if not self._offers_other():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See uvicorn."""
        if not self._offers_other():
            super().on_message_complete()

    def _offers_other(self) -> bool:
        # CONNECT counts as an upgrade as well; it stays uvicorn's to refuse.
        offers = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return bool(offers) and not self._should_upgrade()

    def _parse_without_offer(self, rest: bytes) -> None:
        """`rest` is what follows the head: the parser took that for the other protocol, and is of no use any more."""
        head = b"%b %b HTTP/%b\r\n" % (self.scope["method"].encode(), self.url, self.scope["http_version"].encode())
        head += b"".join(b"%b: %b\r\n" % header for header in self._without_offer())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.data_received(head + b"\r\n" + rest)

    def _without_offer(self) -> Iterator[tuple[bytes, bytes]]:
        for name, value in self.headers:
            if name not in _ABOUT_UPGRADES:
                yield name, value
            elif name == b"connection" and b"close" in [option.strip().lower() for option in value.split(b",")]:
                yield name, b"close"


class _EndsByClosing(RequestResponseCycle):
    """The answer to an HTTP/1.0 client, after which uvicorn closes the connection in any case."""

    async def send(self, message: Any) -> None:
        """As uvicorn's, without chunks."""
        if message["type"] == "http.response.start" and not self._has_length(message):
            self.chunked_encoding = False
            self.expected_content_length = sys.maxsize
        elif self._length_is_unknown and not message.get("more_body", False):
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)

    @property
    def _length_is_unknown(self) -> bool:
        return self.chunked_encoding is False and self.expected_content_length > sys.maxsize // 2

    @staticmethod
    def _has_length(message: Any) -> bool:
        return any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
