"""Holds real answers to `/openapi.json`: status, content type, headers and body, each event of a stream by itself.

What breaks the document is collected, and raised by `verify`: clients and servers would swallow an error that is raised
between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from serve_app.openai_api.answer_schema import ErrorBody
from tests.support.fake_router import FakeRouter

_OUR_HEADERS = re.compile(r"x-ratelimit-.*|x-request-id|x-stream-id|x-should-retry|retry-after.*|www-authenticate")
_OF_A_PROXY = {404, 408, 500, 502, 503, 504}
"""Statuses with which Serve or HAProxy answer themselves, in plain text: none of the API's answers is that."""
_CLIENT_CLOSED_REQUEST = 499
"""Nobody reads it."""


class OpenApiCheck:
    """Collects in `violations` what the answers of an API have that its document does not."""

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        """`document` is `/openapi.json`; that of this code when None."""
        self._document = dict(document or _document())
        self._paths = [
            (re.compile(re.sub(r"\\{(\w+)\\}", _pattern, re.escape(path))), methods)
            for path, methods in sorted(self._document["paths"].items(), key=lambda each: each[0].count("{"))
        ]
        self._validators: dict[str, Draft202012Validator] = {}
        self.violations: list[str] = []
        self.checked = 0

    def verify(self) -> None:
        """Raise `AssertionError` when an answer broke the document."""
        assert not self.violations, "\n".join(self.violations[:10])

    def answer(
        self, method: str, path: str, status: int, headers: Mapping[str, str], body: bytes, whole: bool = True
    ) -> None:
        """Take one answer. `body` is its beginning unless it is `whole`."""
        content_type = headers.get("content-type", "")
        kind = content_type.partition(";")[0]
        if status == _CLIENT_CLOSED_REQUEST or (status in _OF_A_PROXY and kind in ("text/plain", "text/html", "")):
            return
        self.checked += 1
        for problem in self._problems(method, path, status, headers, kind, body, whole):
            self.violations.append(f"{method} {path} {status} {content_type}: {problem}")

    def _problems(
        self, method: str, path: str, status: int, headers: Mapping[str, str], kind: str, body: bytes, whole: bool
    ) -> Iterator[str]:
        described = next((methods for pattern, methods in self._paths if pattern.fullmatch(path)), None)
        operation = (described or {}).get("get" if method == "HEAD" else method.lower())
        if operation is None or (method == "HEAD" and status == 405):
            if method == "OPTIONS" or path == "/openapi.json" or path.startswith("/docs"):  # of no operation
                return
            if status not in ((404,) if described is None else (401, 405)):
                yield "no such operation is documented"
            elif method != "HEAD":
                yield from self._invalid({"$ref": f"#/components/schemas/{ErrorBody.__name__}"}, body)
            return
        response = operation["responses"].get(str(status))
        if response is None:
            yield "the status is not documented"
            return
        documented = {name.lower() for name in response.get("headers", {})}
        for name in headers:
            if _OUR_HEADERS.fullmatch(name.lower()) and name.lower() not in documented:
                yield f"the header {name} is not documented"
        content = {key.partition(";")[0]: value for key, value in response.get("content", {}).items()}
        if method == "HEAD" or (not content and not body):
            return
        media = content.get(kind, content.get("*/*"))
        if media is None:
            yield "the content type is not documented"
        elif "itemSchema" in media:
            yield from self._invalid_events(media, body, whole)
        elif whole and kind == "application/json":
            yield from self._invalid(media["schema"], body)

    def _invalid(self, schema: Mapping[str, Any], body: bytes | str) -> Iterator[str]:
        try:
            document = json.loads(body)
        except ValueError:
            yield f"no JSON: {body[:200]!r}"
            return
        yield from self._breaches(schema, document)

    def _breaches(self, schema: Mapping[str, Any], document: Any) -> Iterator[str]:
        key = json.dumps(schema, sort_keys=True)
        validator = self._validators.get(key)
        if validator is None:
            components = {"components": self._document["components"]}
            validator = self._validators[key] = Draft202012Validator({**schema, **components})
        for error in validator.iter_errors(document):
            yield f"{error.json_path}: {error.message[:300]} in {json.dumps(document)[:300]}"

    def _invalid_events(self, media: Mapping[str, Any], body: bytes, whole: bool) -> Iterator[str]:
        events = list(events_in(body, whole))
        done = [event for event in events if event["data"] == "[DONE]"]
        failed = any(event.get("event") == "error" for event in events)
        kinds = media["itemSchema"].get("anyOf", [media["itemSchema"]])
        if done and (len(done) > 1 or events[-1] is not done[0] or failed):
            yield "[DONE] is not the one last event"
        data_schema = kinds[0]["properties"]["data"]["contentSchema"]
        for event in events:
            yield from self._breaches(media["itemSchema"], event)
            if event not in done:
                yield from self._invalid(data_schema, event["data"])


def events_in(body: bytes, whole: bool) -> Iterator[dict[str, Any]]:
    """The events of an event stream by their fields; comments left out, and the last one if it is cut."""
    text = body.decode(errors="replace")
    blocks = text.split("\n\n")
    for block in blocks if whole else blocks[:-1]:
        event: dict[str, Any] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            if name:
                value = value.removeprefix(" ")
                event[name] = f"{event[name]}\n{value}" if name in event else int(value) if name == "retry" else value
        if event:
            yield {"data": "", **event}


class CheckedApi:
    """An ASGI application whose answers are held to the document."""

    def __init__(self, api: ASGIApp, check: OpenApiCheck) -> None:
        self._api = api
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    done(whole=True)
            await send(message)

        def done(whole: bool) -> None:
            headers = {name.decode().lower(): value.decode() for name, value in start.pop("headers", ())}
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            self._check.answer(scope["method"], path, start.pop("status"), headers, bytes(body), whole)

        try:
            await self._api(scope, receive, seen)
        finally:
            if "status" in start:  # the client left, or the server failed
                done(whole=False)


class CheckedTransport(httpx.AsyncBaseTransport):
    """Takes requests to servers. Answers of what is below `base` are held to the document. Those of others are not:
    proxies and dashboards have answers of their own."""

    def __init__(self, transport: httpx.AsyncBaseTransport, base: str, check: OpenApiCheck) -> None:
        self._transport = transport
        self._base = httpx.URL(base)
        self._check = check

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        url, base = request.url, self._base
        prefix = base.path.rstrip("/")
        if (url.host, url.port) == (base.host, base.port) and url.path.startswith(f"{prefix}/"):
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _Seen(response.stream, request, response, prefix, self._check)
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Seen(httpx.AsyncByteStream):
    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        request: httpx.Request,
        response: httpx.Response,
        base: str,
        check: OpenApiCheck,
    ) -> None:
        self._stream, self._request, self._base, self._check = stream, request, base, check
        self._status, self._headers = response.status_code, response.headers
        self._body = bytearray()
        self._whole = False
        self._told = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._body.extend(part)
            yield part
        self._whole = True

    async def aclose(self) -> None:
        await self._stream.aclose()
        if not self._told:
            self._told = True
            path = self._request.url.path.removeprefix(self._base)
            self._check.answer(self._request.method, path, self._status, self._headers, bytes(self._body), self._whole)


def _pattern(name: re.Match[str]) -> str:
    return ".+" if name.group(1) == "model_id" else "[^/]+"


@cache
def _document() -> dict[str, Any]:
    return build_api(lambda: FakeRouter([]), IngressConfig()).openapi()
