"""One call of `BiStreamChat`: requests in, the messages of all their answers out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from serve_app.core.errors import InvalidRequest, QueueFull, ReplicaLeaving, ServeAppError
from serve_app.ingress.delivery.closing import finished
from serve_app.ingress.grpc.answer import AnswerWriter
from serve_app.ingress.grpc.call import Call
from serve_app.ingress.grpc.generation import Generation, Generations
from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse

_LEAVING = "This replica is being replaced: call again."


@dataclass(slots=True)
class _Open:
    """A request that is being answered. `started`: its task runs, so that cancelling the task reaches it."""

    generation: Generation
    client_id: str
    started: bool = False
    cancelled: bool = False


class Conversation:
    """Used for one call. Requests with an id run at the same time, those without one after the other."""

    def __init__(self, generations: Generations, call: Call) -> None:
        self._generations = generations
        self._config = generations.config.grpc
        self._departure = generations.router.departure
        self._call = call
        self._answers: asyncio.Queue[ChatResponse | None] = asyncio.Queue(self._config.max_unread_messages)
        self._open: dict[asyncio.Task[None], _Open] = {}
        self._named: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()
        self._asked = 0
        self._reading_failed: Exception | None = None
        self._waiting: asyncio.Timeout | None = None

    async def messages(self, requests: AsyncIterator[ChatRequest]) -> AsyncGenerator[ChatResponse, None]:
        """The messages of all answers, until `requests` ends and all is answered, or nothing happens for too long.

        Whatever still runs when this is closed is ended. Raises what reading `requests` raises, and `ReplicaLeaving`
        once the replica leaves and all that was open is answered.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            with self._departure.told_to(self._stop_waiting):
                while (message := await self._next()) is not None:
                    yield message
            if self._reading_failed is not None:
                raise self._reading_failed
        finally:
            tasks = [reader, *self._open]
            for task in tasks:
                task.cancel()
            await finished(asyncio.gather(*tasks, return_exceptions=True))

    async def _next(self) -> ChatResponse | None:
        while True:
            if self._departure.leaving and not self._open and self._answers.empty():
                raise ReplicaLeaving(_LEAVING)
            asked, departing = self._asked, self._departure.leaving
            try:
                async with asyncio.timeout(self._config.idle_timeout_s) as self._waiting:
                    return await self._answers.get()
            except TimeoutError:
                if not self._open and asked == self._asked and departing == self._departure.leaving:
                    return None
            finally:
                self._waiting = None

    def _stop_waiting(self) -> None:
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def _read(self, requests: AsyncIterator[ChatRequest]) -> None:
        """Start what is asked for; `None` comes after the last answer."""
        try:
            async for request in requests:
                self._asked += 1
                try:
                    await self._handle(request)
                except ServeAppError as error:
                    await self._answers.put(self._refused(request, error))
        except Exception as error:
            self._reading_failed = error
        # Serve ends the iteration of a cancelled call like that of a half-closed one.
        if self._reading_failed or getattr(requests, "is_cancelled", bool)():
            for task in self._open:
                task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        await self._answers.put(None)

    async def _handle(self, request: ChatRequest) -> None:
        if request.cancel:
            await self._cancel(request)
            return
        if request.id and request.id in self._named:
            raise InvalidRequest(f"A request of id '{request.id[:128]}' is open on this call.", "id", "id_in_use")
        if self._departure.leaving:
            raise ReplicaLeaving(_LEAVING)
        if len(self._open) >= self._config.max_requests:
            raise QueueFull(f"This call has {self._config.max_requests} open requests.")
        generation = self._generations.new(request, self._call, f"{self._call.request_id}-{self._asked}")
        opened = _Open(generation, request.id)
        task = asyncio.create_task(self._answer(opened))
        # Not in `_answer`: a task that is cancelled before it begins never comes there.
        task.add_done_callback(lambda _: generation.discard())
        self._open[task] = opened
        if request.id:
            self._named[request.id] = task

    async def _cancel(self, request: ChatRequest) -> None:
        # A request that has just ended cannot be cancelled any more, and its client knows already.
        if (task := self._named.get(request.id)) is not None:
            opened = self._open[task]
            if opened.started and not opened.cancelled:
                task.cancel()
            opened.cancelled = True
        elif request.stream_id:
            await self._generations.stop(request, self._call)
            await self._answers.put(self._writer(request).cancelled())

    async def _answer(self, opened: _Open) -> None:
        task = asyncio.current_task()
        assert task is not None
        opened.started = True
        try:
            if opened.client_id:
                last = await self._deliver(opened, task)
            else:
                async with self._turn:
                    last = await self._deliver(opened, task)
        finally:
            del self._open[task]
            if opened.client_id:
                del self._named[opened.client_id]
        if last is not None:
            await self._answers.put(last)

    async def _deliver(self, opened: _Open, task: asyncio.Task[None]) -> ChatResponse | None:
        """Put the answer's messages, but for the last one of a failed or cancelled answer, which is returned."""
        generation = opened.generation
        if opened.cancelled:
            return generation.cancelled()
        try:
            async with aclosing(generation.messages()) as messages:
                async for message in messages:
                    await self._answers.put(message)
        except asyncio.CancelledError:
            if not opened.cancelled or task.uncancel():
                raise
            with contextlib.suppress(InvalidRequest):  # it has been forgotten already
                await generation.stop()
            return generation.cancelled()
        except Exception as error:
            return generation.failed(error)[1]
        return None

    def _refused(self, request: ChatRequest, error: ServeAppError) -> ChatResponse:
        """An error with an id ends the request of that id. One that is open goes on, so that this one has none."""
        client_id = "" if request.id in self._named else request.id
        return AnswerWriter(client_id, lambda: 0.0).failed(error)

    @staticmethod
    def _writer(request: ChatRequest) -> AnswerWriter:
        """For an answer that consists of one message."""
        return AnswerWriter(request.id, lambda: 0.0)
