"""HTTP/1 as clients speak it, for the uvicorn that Ray Serve runs: three things that uvicorn 0.54 gets wrong.

* A request that offers another protocol (`Connection: Upgrade`, `Upgrade: h2c`, as Java's HTTP client sends with each
  one) loses its body, or has it read as the next request. A server may ignore an offer (RFC 9110, section 7.8): the
  request is parsed once more without it. WebSockets are upgraded as before.
* An answer of unknown length to an HTTP/1.0 client is sent in chunks, which such a client does not know (RFC 9112,
  section 6.1). It ends with the connection instead.
* A head that never ends is collected for ever: address and headers together get 64 KiB here, as with uvicorn's `h11`.

All hold for uvicorn's own parser in C, `httptools`; with `h11` there is nothing to mend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import httptools
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serve_app.openai_api.errors import error_document

_MAX_HEAD_BYTES = 64 * 1024
"""Of address and headers, beyond what is read from the socket at once; HAProxy and nginx allow less."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b"
)
_ABOUT_UPGRADES = (b"upgrade", b"connection", b"http2-settings")


def install() -> None:
    """Let every uvicorn that starts in this process from now on speak so. Idempotent."""
    if auto.AutoHTTPProtocol is HttpToolsProtocol:
        auto.AutoHTTPProtocol = HttpProtocol


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for offers that are not taken and heads that are too long."""
        self._unset_keepalive_if_required()
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse_head()
                return
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

    def on_message_begin(self) -> None:
        """See uvicorn."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """See uvicorn. What comes behind a body in chunks is no header of the request that is being answered."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request, unless it is to be parsed again."""
        self._in_head = False
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

    def _refuse_head(self) -> None:
        message = f"The address and headers of a request may have {_MAX_HEAD_BYTES} bytes."
        document = error_document(431, message, None, "payload_too_large")
        self.transport.write(_TOO_LARGE % (len(document), document))
        self.transport.close()

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
