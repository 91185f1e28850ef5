"""gRPC clients of a served application, with the generated stubs."""

from __future__ import annotations

import asyncio
import copy
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub

from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from serve_app.ingress.grpc.proto.chat_pb2_grpc import ChatServiceStub
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling
from serve_app.ingress.grpc.proto.llm_pb2_grpc import LLMServiceStub
from tests.support.served_app import API_KEY, ServedApp

CALL_TIMEOUT_S = 60.0


class GrpcClient:
    """One connection. Use `async with`; `metadata` of each call name the application and the tenant."""

    def __init__(self, app: ServedApp, api_key: str = API_KEY, target: str | None = None, small: bool = False) -> None:
        """`target` is where to reach the application, if not directly; `small`: what the client has not read fits into
        64 KiB, and not into megabytes as gRPC would have it on one machine."""
        self.metadata = (("application", app.name), ("authorization", f"Bearer {api_key}"))
        # A connection of its own: gRPC would share one among all channels to the same address.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        if small:
            options += [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
        self.channel = grpc.aio.insecure_channel(target or app.cluster.grpc_target, options=options)
        self.chat = ChatServiceStub(self.channel)
        self.llm = LLMServiceStub(self.channel)
        self.health = HealthStub(self.channel)

    async def __aenter__(self) -> GrpcClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def stream(self, request: ChatRequest, timeout_s: float | None = CALL_TIMEOUT_S) -> list[ChatResponse]:
        """A call of `StreamChat`, read to its end."""
        return [message async for message in self.chat.StreamChat(request, metadata=self.metadata, timeout=timeout_s)]


class Break(NamedTuple):
    """Where a call broke."""

    status: grpc.StatusCode
    position: int


async def read_resuming(
    client: GrpcClient, request: ChatRequest, within_s: float = CALL_TIMEOUT_S
) -> tuple[list[ChatResponse], list[Break]]:
    """The messages of a kept stream, whose call is repeated when it breaks, and how it broke each time.

    An error that the server itself tells of is raised.
    """
    messages: list[ChatResponse] = []
    breaks: list[Break] = []
    request = copy.deepcopy(request)
    request.resume = True
    async with asyncio.timeout(within_s):
        while not (messages and messages[-1].done):
            try:
                async for message in client.chat.StreamChat(request, metadata=client.metadata):
                    assert not message.HasField("error"), message
                    messages.append(message)
                    request.stream_id = message.stream_id or request.stream_id
                    request.position = message.position if request.stream_id else 0
            except grpc.aio.AioRpcError as error:
                if messages and messages[-1].HasField("error"):
                    raise
                breaks.append(Break(error.code(), request.position))
    return messages, breaks


def ask_for(model: str, max_tokens: int, prompt: str = "Tell me something.", **further: object) -> ChatRequest:
    """A request that always gets `max_tokens` tokens from the simulated engine, and always the same."""
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    fields: dict[str, Any] = {**further, "sampling": sampling}
    return ChatRequest(model=model, max_tokens=max_tokens, prompt=prompt, **fields)
