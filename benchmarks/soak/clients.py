"""The soak's clients: one request of each protocol, carried to its end through cuts and kills."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from grpc.aio import AioRpcError, Channel
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from benchmarks.soak.questions import Exam, Question
from benchmarks.soak.tally import Tally
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest
from serve_app.ingress.grpc.proto.chat_pb2_grpc import ChatServiceStub
from serve_app.ingress.grpc.proto.generation_pb2 import Sampling

_PATIENCE_S = 90.0
_PAUSE_S = 0.3
_LEAVES, _CUTS = 0.1, 0.15
"""Parts of the streams that the client gives up, and that it cuts and goes on with."""
_FULL = ("queue_full", "deadline_unattainable")
_CONTINUED = (429, 500, 502, 503, 504)


class Left(Exception):
    """The client gave its answer up on purpose."""


class Cut(Exception):
    """The connection is gone; the rest can be had."""


class Lost(Exception):
    """There is no answer, and none will come."""


@dataclass(frozen=True, slots=True)
class World:
    """What all clients share."""

    url: str
    http: httpx.AsyncClient
    channel: Channel
    exam: Exam
    tally: Tally


Ask = Callable[[World, Question, "Reading"], Awaitable[None]]


@dataclass(slots=True)
class Reading:
    """One answer as far as it has come."""

    key: str
    leave_at: int | None = None
    cut_at: int | None = None
    text: str = ""
    pieces: int = 0
    place: str = ""
    """Where to go on: an event id, a stream id or that of a response."""
    position: int = 0

    def take(self, text: str) -> None:
        """Another piece came. Raises `Left` or `Cut` where that was planned."""
        self.text += text
        self.pieces += 1
        if self.pieces == self.leave_at:
            raise Left
        if self.pieces == self.cut_at:
            raise Cut


async def carry(world: World, protocol: str, ask: Ask, question: Question, wanted: str, rng: random.Random) -> None:
    """Ask until the answer is whole, and count what came of it."""
    draw, reading = rng.random(), Reading(uuid.uuid4().hex)
    if draw < _LEAVES:
        reading.leave_at = rng.randrange(2, 30)
    elif draw < _LEAVES + _CUTS:
        reading.cut_at = rng.randrange(2, 30)
    tally = world.tally
    try:
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                try:
                    await ask(world, question, reading)
                    break
                except (Cut, httpx.TransportError, ConnectionClosed, OSError):
                    tally.resumed += 1
                await asyncio.sleep(_PAUSE_S)
        tally.judge(protocol, str(question.number), reading.text, wanted)
    except Left:
        tally.left += 1
    except (Lost, TimeoutError) as error:
        tally.lost.append(f"{protocol} {question.number} after {reading.pieces} pieces: {error!r}")


def _look_at(world: World, status: int, text: str) -> None:
    """Raises `Cut` if the same may be tried again, `Lost` if not."""
    if status == 429:
        world.tally.refused += 1
    elif status >= 500:
        world.tally.failed(str(status))
    if status in _CONTINUED:
        raise Cut
    if status >= 300:
        raise Lost(f"{status} {text[:200]}")


async def _stream(
    world: World, path: str, body: dict[str, Any], reading: Reading, text_of: Callable[[Any], str]
) -> None:
    headers = {"Idempotency-Key": reading.key, "X-Stream-Resume": "true"}
    if reading.place:
        headers["Last-Event-ID"] = reading.place
    else:
        reading.text = ""  # the same key: the stream from its beginning
    async with world.http.stream("POST", path, json=body, headers=headers) as answer:
        if answer.status_code != 200:
            _look_at(world, answer.status_code, (await answer.aread()).decode(errors="replace"))
        place = ""
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                place = line[4:]
            elif line == "data: [DONE]":
                return
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise Lost(line[:300])
                # The place counts once its text was taken: a cut between the two would lose the text.
                reading.place = place or reading.place
                reading.take("".join(text_of(choice) for choice in event["choices"]))
    raise Cut  # it ended without [DONE]


async def chat_stream(world: World, question: Question, reading: Reading) -> None:
    """`POST /v1/chat/completions`, streamed."""
    body = question.chat(stream=True)
    await _stream(world, "/v1/chat/completions", body, reading, lambda choice: choice["delta"].get("content") or "")


async def completion_stream(world: World, question: Question, reading: Reading) -> None:
    """`POST /v1/completions`, streamed."""
    body = question.completion(stream=True)
    await _stream(world, "/v1/completions", body, reading, lambda choice: choice.get("text") or "")


async def chat_whole(world: World, question: Question, reading: Reading) -> None:
    """`POST /v1/chat/completions`, at once."""
    headers = {"Idempotency-Key": reading.key}
    answer = await world.http.post("/v1/chat/completions", json=question.chat(stream=False), headers=headers)
    _look_at(world, answer.status_code, answer.text)
    reading.text = answer.json()["choices"][0]["message"]["content"]


async def background_response(world: World, question: Question, reading: Reading) -> None:
    """`POST /v1/responses` in the background, looked at until it is complete."""
    if not reading.place:
        headers = {"Idempotency-Key": reading.key}
        answer = await world.http.post("/v1/responses", json=question.background(), headers=headers)
        _look_at(world, answer.status_code, answer.text)
        reading.place = answer.json()["id"]
    while True:
        answer = await world.http.get(f"/v1/responses/{reading.place}")
        _look_at(world, answer.status_code, answer.text)
        found = answer.json()
        if found["status"] in ("completed", "incomplete"):  # it has all the tokens that were asked for
            reading.text = "".join(part["text"] for item in found["output"] for part in item.get("content", ()))
            return
        if found["status"] not in ("queued", "in_progress"):
            raise Lost(f"{found['status']}: {found.get('error')}")
        await asyncio.sleep(_PAUSE_S)


async def socket(world: World, question: Question, reading: Reading) -> None:
    """`/v1/ws/chat`."""
    url = world.url.replace("http", "ws", 1) + "/v1/ws/chat"
    body = {name: value for name, value in question.chat(stream=True).items() if name != "stream"}
    message: dict[str, Any] = {"type": "request", "id": "a", "body": body, "idempotency_key": reading.key}
    if reading.place:
        message = {"type": "resume", "id": "a", "stream_id": reading.place, "position": reading.position}
    else:
        reading.text = ""  # the same key: the stream from its beginning
    try:
        async with connect(url, open_timeout=20, close_timeout=2) as connection:
            await connection.send(json.dumps(message))
            async for raw in connection:
                event = json.loads(raw)
                reading.place = event.get("stream_id") or reading.place
                if event["type"] == "done":
                    return
                if event["type"] == "error":
                    full = event["error"].get("code") in _FULL
                    _look_at(world, 429 if full else 503 if event.get("retryable") else 400, str(event)[:300])
                if event["type"] == "token":
                    reading.position = event["position"]
                    reading.take(event["content"])
    except InvalidStatus as error:
        _look_at(world, error.response.status_code, "the handshake")
    except InvalidHandshake as error:
        raise Cut from error
    raise Cut


async def grpc_stream(world: World, question: Question, reading: Reading) -> None:
    """`ChatService.StreamChat`."""
    request = ChatRequest(
        prompt=question.prompt,
        model=question.model,
        max_tokens=question.tokens,
        sampling=Sampling(temperature=0, ignore_eos=True),
        resume=True,
        idempotency_key=reading.key,
    )
    if reading.place:
        request = ChatRequest(stream_id=reading.place, position=reading.position)
    else:
        reading.text = ""
    call = ChatServiceStub(world.channel).StreamChat(request)
    try:
        async for answer in call:
            reading.place = answer.stream_id or reading.place
            if answer.done:
                return
            if answer.token:
                reading.position = answer.position
                reading.take(answer.token)
    except AioRpcError as error:
        statuses = {
            grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
            grpc.StatusCode.UNAVAILABLE: 503,
            grpc.StatusCode.INTERNAL: 500,
            grpc.StatusCode.UNKNOWN: 500,
        }
        _look_at(world, statuses.get(error.code(), 400), error.details() or error.code().name)
    finally:
        call.cancel()
    raise Cut


PROTOCOLS: dict[str, tuple[Ask, int]] = {
    "chat stream": (chat_stream, 14),
    "chat": (chat_whole, 6),
    "completion stream": (completion_stream, 6),
    "background response": (background_response, 4),
    "socket": (socket, 8),
    "grpc": (grpc_stream, 7),
}
"""How each asks, and how many of its clients there are: 45."""


async def client(world: World, protocol: str, end: float, rng: random.Random) -> None:
    """Ask one question after the other until `end`."""
    ask, _ = PROTOCOLS[protocol]
    loop = asyncio.get_running_loop()
    while loop.time() < end:
        question = rng.choice(world.exam.questions)
        answers = world.exam.completion if protocol.startswith("completion") else world.exam.chat
        await carry(world, protocol, ask, question, answers[question.number], rng)
