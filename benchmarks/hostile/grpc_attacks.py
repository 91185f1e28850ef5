"""Hostile gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import grpc
from grpc.aio import Channel, insecure_channel

from benchmarks.hostile.bodies import MIB
from benchmarks.hostile.outcomes import Attack, Target
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.chat_pb2_grpc import ChatServiceStub
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.proto.llm_pb2_grpc import LLMServiceStub

_OUR_FAULT = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)


async def _on_channel(play: Callable[[Channel, Target], object], target: Target) -> str:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with insecure_channel(f"127.0.0.1:{target.grpc_port}", options=options) as channel:
        try:
            result = play(channel, target)
            assert asyncio.iscoroutine(result)
            await result
            return "played"
        except grpc.aio.AioRpcError as error:
            return f"500 ({error.code().name})" if error.code() in _OUR_FAULT else error.code().name


async def giant_prompt(channel: Channel, target: Target) -> None:
    """3 MiB in one prompt."""
    await LLMServiceStub(channel).Ask(LLMRequest(prompt="word " * (3 * MIB // 5), model=target.model))


async def too_large(channel: Channel, _target: Target) -> None:
    """Beyond what gRPC takes."""
    await LLMServiceStub(channel).Ask(LLMRequest(prompt="x" * (8 * MIB)))


async def many_messages(channel: Channel, target: Target) -> None:
    """300,000 messages."""
    request = ChatRequest(model=target.model)
    for _ in range(300_000):
        request.messages.add(role="user", content="a")
    async for _ in ChatServiceStub(channel).StreamChat(request):
        pass


async def no_message(channel: Channel, _target: Target) -> None:
    """Bytes that are none of the declared messages."""
    call = channel.unary_unary("/LLMService/Ask")
    await call(b"\xff" * 1000)


async def flood(channel: Channel, target: Target) -> None:
    """50 calls at once, given up after a moment."""
    calls = [LLMServiceStub(channel).Ask(LLMRequest(prompt="x", model=target.model, max_tokens=500)) for _ in range(50)]
    await asyncio.sleep(0.5)
    for call in calls:
        call.cancel()


async def stream_and_leave(channel: Channel, target: Target) -> None:
    """A kept stream, given up at its first token."""
    async for _ in ChatServiceStub(channel).StreamChat(
        ChatRequest(prompt="x", model=target.model, max_tokens=2000, resume=True)
    ):
        return


async def same_id(channel: Channel, target: Target) -> None:
    """Several requests of one name on one call."""

    async def requests() -> AsyncIterator[ChatRequest]:
        for _ in range(5):
            yield ChatRequest(id="a", prompt="x", model=target.model, max_tokens=20)

    async for _ in ChatServiceStub(channel).BiStreamChat(requests()):
        pass


async def odd_metadata(channel: Channel, target: Target) -> None:
    """A deadline and a priority that are none."""
    metadata = (("x-deadline-ms", "9" * 400), ("x-priority", "x" * 4000))
    await LLMServiceStub(channel).Ask(LLMRequest(prompt="x", model=target.model), metadata=metadata)


def attacks() -> dict[str, Attack]:
    """All of them by name."""
    plays = (
        giant_prompt, too_large, many_messages, no_message, flood, stream_and_leave, same_id, odd_metadata,
    )  # fmt: skip
    return {f"grpc: {play.__name__.replace('_', ' ')}": partial(_on_channel, play) for play in plays}
