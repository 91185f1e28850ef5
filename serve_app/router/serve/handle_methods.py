"""The methods under which other Ray actors ask for answers: those of the router deployment's class."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from serve_app.core.interfaces import Router


class HandleCalls(Protocol):
    """What answers; see `serve_app.ingress.handle.api`, which is above this package."""

    async def chat(self, body: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]: ...

    def stream_chat(
        self, body: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]: ...


BuildHandleApi = Callable[[Router], HandleCalls]
"""Makes the API over the router that it serves."""


class HandleMethods:
    """Mixin of the router deployment. `options`: tenant, priority, timeout_s, idempotency_key."""

    _handle_api: HandleCalls

    async def chat(self, body: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """A chat completion."""
        return await self._handle_api.chat(body, options)

    async def stream_chat(self, body: Mapping[str, Any], **options: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a chat completion, for `handle.options(stream=True)`."""
        async with aclosing(self._handle_api.stream_chat(body, options)) as chunks:
            async for chunk in chunks:
                yield chunk
