"""gRPC clients of a served application, with the generated stubs."""

from __future__ import annotations

from types import TracebackType

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub

from serve_app.ingress.proto.chat_pb2 import ChatRequest, ChatResponse
from serve_app.ingress.proto.chat_pb2_grpc import ChatServiceStub
from serve_app.ingress.proto.generation_pb2 import Sampling
from serve_app.ingress.proto.llm_pb2_grpc import LLMServiceStub
from tests.support.served_app import API_KEY, ServedApp

CALL_TIMEOUT_S = 60.0


class GrpcClient:
    """One connection. Use `async with`; `metadata` of each call name the application and the tenant."""

    def __init__(self, app: ServedApp, api_key: str = API_KEY) -> None:
        self.metadata = (("application", app.name), ("authorization", f"Bearer {api_key}"))
        # A connection of its own: gRPC would share one among all channels to the same address.
        self.channel = grpc.aio.insecure_channel(
            app.cluster.grpc_target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        )
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


def ask_for(model: str, max_tokens: int, prompt: str = "Tell me something.", **further: object) -> ChatRequest:
    """A request that always gets `max_tokens` tokens from the simulated engine, and always the same."""
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    return ChatRequest(model=model, max_tokens=max_tokens, prompt=prompt, sampling=sampling, **further)  # type: ignore[arg-type]
