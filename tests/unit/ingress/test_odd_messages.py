"""Sockets and gRPC calls with fields of any value, missing, foreign, nested too deeply or cut off.

Whatever comes, each message is answered as what it is: no socket is closed as our defect (1011), no error is internal.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import grpc
import pytest

from serve_app.ingress.config import IngressConfig
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.llm_pb2 import LLMRequest
from serve_app.ingress.grpc.services import build_grpc
from tests.support.fake_router import FakeRouter, speak
from tests.support.grpc_calls import FakeContext, FakeRequests
from tests.unit.ingress.requests import chat_body
from tests.unit.ingress.websocket.client import CHAT_SOCKET, PLAIN_SOCKET, SocketClient

TEXTS = ["", "a", "키", "\x00", "x" * 300, "\u2028", "\U0001d4b3", "interactive", "user", "system", "tool", "k1", "k2"]
VALUES: list[Any] = [*TEXTS, "\ud800", None, 1, -1, 0.5, 1e309, True, [], {}, [[]], 2**70]
KINDS = ["request", "request", "request", "resume", "cancel", "ping", "auth", "other", None, 1]
FIELDS = ["type", "id", "body", "resume", "idempotency_key", "priority", "timeout_ms", "stream_id", "position", "token"]
FIELDS += ["prompt", "max_tokens", "model", "other"]
BODY = ["n", "temperature", "max_tokens", "metadata", "stop", "seed", "user", "messages", "logit_bias", "stream"]
BODY += ["stream_options", "logprobs", "top_logprobs", "tools", "response_format", "chat_template_kwargs", "model"]
DEPTHS = [5, 100, 254, 255, 600, 5000]


def odd_message(rng: random.Random) -> str:
    message = {name: rng.choice(VALUES) for name in rng.sample(FIELDS, rng.randint(0, 4))}
    message["type"] = rng.choice(KINDS)
    if rng.random() < 0.6:
        message["id"] = str(rng.random())
        message["body"] = chat_body(**{rng.choice(BODY): rng.choice(VALUES) for _ in range(rng.randint(0, 2))})
    text = json.dumps(message)
    if rng.random() < 0.2:
        depth = rng.choice(DEPTHS)
        text = text.replace('"messages":', f'"metadata": {"[" * depth + "]" * depth}, "messages":')
    return text[: rng.randint(0, len(text))] if rng.random() < 0.05 else text


@pytest.mark.parametrize("path", [CHAT_SOCKET, PLAIN_SOCKET])
@pytest.mark.parametrize("seed", range(20))
async def test_a_socket_tells_what_is_wrong(path: str, seed: int) -> None:
    rng = random.Random(seed)
    said = [odd_message(rng) for _ in range(8)]
    async with SocketClient(FakeRouter([speak("a")]), path) as client:
        for message in said:
            client.say(message)
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
    codes = {heard["error"]["code"] for heard in client.sent if heard["type"] == "error"}
    assert "internal_error" not in codes, said
    assert client.closed is None or client.closed["code"] != 1011, said


def filled(message: Any, rng: random.Random) -> Any:
    """`message` with about half of its fields set to something."""
    for field in message.DESCRIPTOR.fields:
        if rng.random() < 0.6:
            continue
        values: dict[int, Any] = {
            field.CPPTYPE_STRING: rng.choice(TEXTS),
            field.CPPTYPE_BOOL: rng.random() < 0.3,
            field.CPPTYPE_DOUBLE: rng.choice([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e300]),
            field.CPPTYPE_UINT32: rng.choice([0, 1, 2**31]),
        }
        repeated = hasattr(getattr(message, field.name), "extend")
        if field.message_type is not None:
            filled(getattr(message, field.name).add() if repeated else getattr(message, field.name), rng)
        elif repeated:
            getattr(message, field.name).extend([values[field.cpp_type]] * rng.randint(0, 3))
        else:
            setattr(message, field.name, values.get(field.cpp_type, rng.choice([0, 1, -1, 2**31 - 1, -(2**31)])))
    return message


@pytest.mark.parametrize("seed", range(40))
async def test_a_call_tells_what_is_wrong(seed: int) -> None:
    rng = random.Random(seed)
    services = build_grpc(FakeRouter([speak("a")]), IngressConfig())
    requests = [filled(ChatRequest(), rng) for _ in range(4)]
    contexts = [FakeContext(("authorization", f"Bearer {rng.choice(TEXTS)}")) for _ in range(6)]
    async with asyncio.timeout(5.0):
        heard = [message async for message in services.bi_stream_chat(FakeRequests(*requests), contexts[0])]
        for request, context in zip(requests, contexts[1:], strict=False):
            heard += [message async for message in services.stream_chat(request, context)]
        await services.ask(filled(LLMRequest(), rng), contexts[5])
    assert "internal_error" not in {message.error.code for message in heard}, requests
    assert grpc.StatusCode.INTERNAL not in [context.code for context in contexts]
