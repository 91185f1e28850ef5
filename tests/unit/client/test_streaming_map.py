"""The streaming map: bounded, paced, and never ahead of its reader."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console

from serve_app.client.async_client import AsyncClient
from serve_app.client.progress import ProgressBar
from serve_app.client.streaming_map import Result, Source
from tests.support.resumable_server import AsyncTransport, Refuse, ResumableServer, Whole
from tests.support.virtual_loop import run_virtual


class Counted:
    """A source that counts what was read of it."""

    def __init__(self, size: int | None = None) -> None:
        self.read = 0
        self._size = size

    def __iter__(self) -> Iterator[int]:
        while self._size is None or self.read < self._size:
            self.read += 1
            yield self.read - 1


class Work:
    """Takes `seconds[item]`, default 1, for each item, and counts how many run at once."""

    def __init__(self, seconds: dict[int, float] | None = None, failing: tuple[int, ...] = ()) -> None:
        self.running = 0
        self.most = 0
        self.cancelled = 0
        self._seconds = seconds or {}
        self._failing = failing

    async def __call__(self, item: int) -> str:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._seconds.get(item, 1.0))
            if item in self._failing:
                raise ValueError(f"item {item}")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return f"done {item}"


def run(source: Source[int], work: Work, parallelism: int, **options: Any) -> list[Result[int, str]]:
    async def main() -> list[Result[int, str]]:
        return [result async for result in source.map_async(work, parallelism, progress=False, **options)]

    return run_virtual(main())


def test_results_come_in_the_order_of_the_source() -> None:
    results = run(Source(range(6)), Work({0: 5.0, 3: 4.0}), 3)
    assert [(result.index, result.item, result.unwrap()) for result in results] == [
        (index, index, f"done {index}") for index in range(6)
    ]


def test_unordered_results_come_as_they_are_ready() -> None:
    results = run(Source(range(6)), Work({0: 2.5, 3: 0.1}), 3, ordered=False)
    assert [result.item for result in results] == [1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize("ordered", [True, False])
def test_so_many_run_at_once_and_no_more(ordered: bool) -> None:
    work = Work()
    results = run(Source(range(20)), work, 4, ordered=ordered)
    assert sorted(result.item for result in results) == list(range(20))
    assert work.most == 4


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("parallelism", [1, 4])
def test_the_source_is_never_read_further_ahead_than_the_parallelism(ordered: bool, parallelism: int) -> None:
    source = Counted()

    async def main() -> None:
        taken = 0
        async for _ in Source(source).map_async(Work(), parallelism, ordered=ordered, progress=False):
            taken += 1
            await asyncio.sleep(10.0)
            assert source.read - taken == parallelism
            if taken == 20:
                break

    run_virtual(main())


def test_a_slow_first_item_bounds_what_waits_behind_it() -> None:
    source, work = Counted(50), Work({0: 100.0})

    async def main() -> None:
        results = Source(source).map_async(work, 4, progress=False)
        first = asyncio.ensure_future(anext(results))
        await asyncio.sleep(99.0)
        assert source.read == 4
        await first
        await results.aclose()

    run_virtual(main())


def test_a_slow_reader_does_not_keep_running_items_from_finishing() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        async for _ in Source(range(8)).map_async(Work({i: 10.0 for i in range(8)}), 8, progress=False):
            await asyncio.sleep(1.0)
        return loop.time()

    assert run_virtual(main()) == pytest.approx(18.0)


def test_a_slow_source_does_not_hold_up_what_is_ready() -> None:
    async def slow() -> AsyncIterator[int]:
        for item in range(3):
            yield item
            await asyncio.sleep(60.0)

    async def main() -> list[float]:
        now = asyncio.get_running_loop().time
        return [now() async for _ in Source(slow()).map_async(Work(), 4, progress=False)]

    assert run_virtual(main()) == pytest.approx([1.0, 61.0, 121.0])


@pytest.mark.parametrize("ordered", [True, False])
def test_one_bad_item_does_not_lose_the_results_of_others(ordered: bool) -> None:
    results = run(Source(range(6)), Work(failing=(2,)), 3, ordered=ordered)
    by_item = {result.item: result for result in results}
    assert len(by_item) == 6
    assert isinstance(by_item[2].error, ValueError)
    assert all(by_item[item].value == f"done {item}" for item in (0, 1, 3, 4, 5))
    with pytest.raises(ValueError, match="item 2"):
        by_item[2].unwrap()


@pytest.mark.parametrize("ordered", [True, False])
def test_errors_are_raised_when_asked_for_and_the_rest_is_cancelled(ordered: bool) -> None:
    work = Work({1: 0.5, 2: 60.0, 3: 60.0}, failing=(1,))
    with pytest.raises(ValueError, match="item 1"):
        run(Source(range(9)), work, 4, ordered=ordered, errors="raise")
    assert work.running == 0
    assert work.cancelled >= 2


def test_leaving_cancels_what_still_runs() -> None:
    work = Work({1: 60.0})

    async def main() -> None:
        results = Source(range(9)).map_async(work, 2, progress=False)
        async for _ in results:
            break
        await results.aclose()
        assert work.running == 0

    run_virtual(main())
    assert work.cancelled >= 1


@pytest.mark.parametrize("ordered", [True, False])
def test_a_source_that_fails_does_so_after_the_results_of_what_it_gave(ordered: bool) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 0
        yield 1
        raise OSError("the file is gone")

    got = []

    async def main() -> None:
        async for result in Source(broken()).map_async(Work(), 4, ordered=ordered, progress=False):
            got.append(result.item)

    with pytest.raises(OSError, match="gone"):
        run_virtual(main())
    assert got == [0, 1]


def test_an_empty_source_gives_nothing() -> None:
    assert run(Source([]), Work(), 4) == []


@pytest.mark.parametrize("wrong", [0, -1])
def test_senseless_bounds_are_errors(wrong: int) -> None:
    with pytest.raises(ValueError, match="parallelism"):
        run(Source([1]), Work(), wrong)
    with pytest.raises(ValueError, match="per_second"):
        Source([1]).throttle(wrong)


def test_a_throttle_spaces_items_evenly_and_does_not_save_up() -> None:
    async def main() -> list[float]:
        now, starts = asyncio.get_running_loop().time, []
        async for item in Source(range(6)).throttle(5):
            starts.append(now())
            if item == 2:
                await asyncio.sleep(3.0)
        return starts

    assert run_virtual(main()) == pytest.approx([0.0, 0.2, 0.4, 3.4, 3.6, 3.8])


def test_prompts_go_through_the_client_in_two_lines() -> None:
    server = ResumableServer(treatments=[Refuse(400, code="invalid_value"), Whole()])

    async def main() -> list[Result[str, Any]]:
        loop = asyncio.get_running_loop()
        http = httpx.AsyncClient(transport=AsyncTransport(server), trust_env=False)
        async with http, AsyncClient("http://test", http=http, clock=loop.time) as client:
            source = Source(f"input-{i}" for i in range(10))
            results = [r async for r in source.throttle(5).map_async(client.ask, parallelism=4, progress=False)]
            assert loop.time() == pytest.approx(1.8)
            return results

    first, *others = run_virtual(main())
    assert first.error is not None
    assert [str(result.value) for result in others] == [server.text] * 9


def test_a_progress_bar_counts_what_is_done_and_what_failed() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with ProgressBar(3, None, console) as bar:
        bar.advance(failed=False)
        bar.advance(failed=True)
    assert isinstance(console.file, io.StringIO)
    assert "1 failed" in console.file.getvalue()
    assert "2/3" in console.file.getvalue()


@pytest.mark.parametrize(
    ("terminal", "wanted", "shown"), [(False, None, False), (True, False, False), (False, True, True)]
)
def test_a_progress_bar_is_shown_in_terminals_or_when_asked_for(
    terminal: bool, wanted: bool | None, shown: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with ProgressBar(3, wanted, console) as bar:
        bar.advance(failed=False)
    assert isinstance(console.file, io.StringIO)
    assert bool(console.file.getvalue()) is shown
