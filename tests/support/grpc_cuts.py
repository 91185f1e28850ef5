"""gRPC streams whose connection is reset after every single token."""

from __future__ import annotations

import asyncio
import re

import grpc

from serve_app.ingress.grpc.proto.chat_pb2 import ChatResponse
from tests.support.fault_proxy import CutPoint, FaultProxy, never
from tests.support.grpc_client import Break, GrpcClient, ask_for, read_resuming
from tests.support.served_app import ServedApp

_AT_ONCE = 5


def joined(messages: list[ChatResponse]) -> str:
    """The text of an answer."""
    return "".join(message.token for message in messages)


async def check_cut_at_every_position(app: ServedApp, model: str, tokens: int) -> None:
    """Cut an answer of `tokens` tokens, at most 127, once after each of them, and assert that each is whole."""
    async with GrpcClient(app) as client:
        uncut = await client.stream(ask_for(model, tokens))
    turns = asyncio.Semaphore(_AT_ONCE)
    host, port = app.cluster.grpc_target.split(":")

    async def cut(position: int) -> tuple[list[ChatResponse], list[Break]]:
        name = f"cut at {position:03}"
        async with turns, FaultProxy(host, int(port), [_beyond(position, name.encode(), tokens), never]) as proxy:
            async with GrpcClient(app, target=f"127.0.0.1:{proxy.port}") as cut_off:
                answer = await read_resuming(cut_off, ask_for(model, tokens, id=name))
            assert proxy.cuts == 1, position
        return answer

    answers = await asyncio.gather(*(cut(position) for position in range(tokens + 1)))
    cut_at = {each.position for _, breaks in answers for each in breaks}
    print(f"{len(answers)} answers, cut at {len(cut_at)} different positions")
    # Not each: what a client has not read is lost with a reset, and a busy server sends tokens together.
    assert len(cut_at) > tokens / 3
    for position, (messages, breaks) in enumerate(answers):
        assert {each.status for each in breaks} == {grpc.StatusCode.UNAVAILABLE}, position
        assert joined(messages) == joined(uncut), position
        assert messages[-1].usage.prompt_tokens == uncut[-1].usage.prompt_tokens
        assert messages[-1].usage.completion_tokens == tokens
        told = [message.position for message in messages if message.token]
        assert told == sorted(set(told)) and told[-1] == tokens


def _beyond(position: int, name: bytes, last: int) -> CutPoint:
    """Cut in the middle of the first message of request `name` that brings more than `position` tokens; the last
    token, number `last`, is followed by one that says `done`."""
    tokens = re.compile(re.escape(name + bytes([5 << 3])) + rb"(.)", re.DOTALL)  # fields 4 (id) and 5 (position)

    def cut(seen: bytes) -> int | None:
        found = list(tokens.finditer(seen))
        ends = [match.start() for match in found if match[1][0] > position]
        ends += [match.start() for match in found if match[1][0] == last][1:]
        return ends[0] if ends else None

    return cut
