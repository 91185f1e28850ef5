"""Many prompts through a bounded number of requests: sources, `throttle` and `map_async`.

    async for result in Source(prompts).throttle(5).map_async(client.ask, parallelism=4):
        print(result.item, result.value or result.error)

Names and meaning are those of Akka Streams (`throttle`, `mapAsync`, `mapAsyncUnordered`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from serve_app.client.progress import ProgressBar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Result(Generic[T, R]):
    """What became of one item: `value`, or `error` when the function raised."""

    index: int
    """Place in the source, from 0."""
    item: T
    value: R | None = None
    error: Exception | None = None

    def unwrap(self) -> R:
        """The value. Raises the error when there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only if the function returned it


class Source(Generic[T]):
    """Items from any iterable or asynchronous iterable, taken one by one as they are wanted.

    Iterated once. A plain iterable is advanced on the event loop: it must not block.
    """

    def __init__(self, items: Iterable[T] | AsyncIterable[T]) -> None:
        self._items = items
        self._size = len(items) if isinstance(items, Sized) else None

    def __aiter__(self) -> AsyncIterator[T]:
        return self._items.__aiter__() if isinstance(self._items, AsyncIterable) else _each(self._items)

    def throttle(self, per_second: float) -> Source[T]:
        """Let at most `per_second` items a second through, evenly spaced; what waits stays in the source."""
        if per_second <= 0:
            raise ValueError("per_second must be above 0")
        throttled = Source(_spaced(self, 1.0 / per_second))
        throttled._size = self._size
        return throttled

    async def map_async(
        self,
        function: Callable[[T], Awaitable[R]],
        parallelism: int,
        *,
        ordered: bool = True,
        errors: Literal["return", "raise"] = "return",
        progress: bool | None = None,
    ) -> AsyncGenerator[Result[T, R], None]:
        """Call `function` for each item, at most `parallelism` at once, and give the results as they are taken.

        Back-pressure: at most `parallelism` items are read from the source beyond the results that were taken, whether
        they still run or wait to be taken. `ordered` gives results in the source's order, so one slow item holds up
        the others; otherwise they come as they are ready. One that raises is a `Result` with its `error`; with
        `errors="raise"` the error is raised instead, and what still runs is cancelled, as it is when the reader leaves.
        `progress` shows a bar on stderr; None: when that is a terminal.
        """
        if parallelism < 1:
            raise ValueError("parallelism must be at least 1")
        with ProgressBar(self._size, progress) as bar:
            async with aclosing(_Window(self, function, parallelism, ordered).results()) as results:
                async for result in results:
                    bar.advance(failed=result.error is not None)
                    if result.error is not None and errors == "raise":
                        raise result.error
                    yield result


class _Window(Generic[T, R]):
    """The items that were read and whose results were not taken: never more than `parallelism`."""

    def __init__(
        self, source: AsyncIterable[T], function: Callable[[T], Awaitable[R]], parallelism: int, ordered: bool
    ) -> None:
        self._source = source
        self._function = function
        self._ordered = ordered
        self._room = asyncio.Semaphore(parallelism)
        self._line: asyncio.Queue[asyncio.Future[Result[T, R]] | None] = asyncio.Queue()
        self._calls: set[asyncio.Task[Result[T, R]]] = set()

    async def results(self) -> AsyncGenerator[Result[T, R], None]:
        reader = asyncio.create_task(self._read())
        try:
            while (call := await self._line.get()) is not None:
                result = await call
                self._room.release()
                yield result
            await reader
        finally:
            pending: list[asyncio.Future[Any]] = [reader, *self._calls]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _read(self) -> None:
        """Start a call for each item as soon as there is room; in the end let the taker know, also of a failure."""
        try:
            index = 0
            items = aiter(self._source)
            while True:
                await self._room.acquire()
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    break
                call = asyncio.create_task(self._call(index, item))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                if self._ordered:
                    self._line.put_nowait(call)
                else:
                    call.add_done_callback(self._line.put_nowait)
                index += 1
        finally:
            if not self._ordered and self._calls:
                await asyncio.wait(self._calls)
            self._line.put_nowait(None)

    async def _call(self, index: int, item: T) -> Result[T, R]:
        try:
            return Result(index, item, value=await self._function(item))
        except Exception as error:
            return Result(index, item, error=error)


async def _each(items: Iterable[T]) -> AsyncGenerator[T, None]:
    for item in items:
        yield item


async def _spaced(items: AsyncIterable[T], interval_s: float) -> AsyncGenerator[T, None]:
    now = asyncio.get_running_loop().time
    at = now()
    async for item in items:
        if (wait_s := at - now()) > 0:
            await asyncio.sleep(wait_s)
        at = max(at, now()) + interval_s
        yield item
