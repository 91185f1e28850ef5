"""The methods under which Serve's gRPC servers find the services: those of the router deployment's class."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from serve_app.core.interfaces import Router


class GrpcHandlers(Protocol):
    """What answers; see `serve_app.ingress.grpc.services`, which is above this package."""

    async def ask(self, request: Any, context: Any) -> Any: ...

    def stream_chat(self, request: Any, context: Any) -> AsyncGenerator[Any, None]: ...

    def bi_stream_chat(self, requests: AsyncIterator[Any], context: Any) -> AsyncGenerator[Any, None]: ...

    async def check(self, request: Any, context: Any) -> Any: ...

    def watch(self, request: Any) -> AsyncGenerator[Any, None]: ...


BuildGrpc = Callable[[Router], GrpcHandlers]
"""Makes the services over the router that they serve."""


class GrpcMethods:
    """Mixin of the router deployment. Serve calls the method that is named as that of the service, whatever service."""

    _grpc: GrpcHandlers

    async def Ask(self, request: Any, grpc_context: Any) -> Any:
        """`LLMService.Ask`."""
        return await self._grpc.ask(request, grpc_context)

    async def StreamChat(self, request: Any, grpc_context: Any) -> AsyncGenerator[Any, None]:
        """`ChatService.StreamChat`."""
        async with aclosing(self._grpc.stream_chat(request, grpc_context)) as messages:
            async for message in messages:
                yield message

    async def BiStreamChat(self, requests: AsyncIterator[Any], grpc_context: Any) -> AsyncGenerator[Any, None]:
        """`ChatService.BiStreamChat`."""
        async with aclosing(self._grpc.bi_stream_chat(requests, grpc_context)) as messages:
            async for message in messages:
                yield message

    async def Check(self, request: Any, grpc_context: Any) -> Any:
        """`grpc.health.v1.Health.Check`."""
        return await self._grpc.check(request, grpc_context)

    async def Watch(self, request: Any) -> AsyncGenerator[Any, None]:
        """`grpc.health.v1.Health.Watch`."""
        async with aclosing(self._grpc.watch(request)) as states:
            async for state in states:
                yield state
