"""The real engine, asked by gRPC with nothing but a prompt, as `configs/app.yaml` serves it."""

from __future__ import annotations

from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from tests.support.grpc_client import GrpcClient
from tests.support.served_app import ServedApp

PROMPT = "What is the capital of France?"
GREEDY = Sampling(temperature=0.0)


async def test_a_prompt_is_answered_whole_and_token_by_token(app: ServedApp) -> None:
    async with GrpcClient(app) as client:
        reply = await client.llm.Ask(
            LLMRequest(prompt=PROMPT, max_tokens=24, sampling=GREEDY), metadata=client.metadata
        )
        messages = await client.stream(ChatRequest(prompt=PROMPT, max_tokens=24, sampling=GREEDY))
    assert "Paris" in reply.response
    assert "".join(message.token for message in messages) == reply.response
    assert len(messages) > 3 and messages[-1].done
    assert messages[-1].usage.completion_tokens == reply.usage.completion_tokens
