"""How one request is handed to vLLM, over a stand-in for its engine; the rest is in tests/contract."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.core.errors import EngineFailed
from serve_app.core.events import Accepted, Finished, StreamEvent, TokenDelta
from serve_app.engine.vllm.config import VllmEngineConfig
from serve_app.engine.vllm.engine import VllmEngine
from serve_app.engine.vllm.stream import OutputStream

PROMPT = [1, 2]
PARAMS = SimpleNamespace(n=1)


class _Collector:
    """Like vLLM's: keeps what is put until it is taken."""

    def __init__(self, request_id: str, pending: Any = None) -> None:
        self.request_id = request_id
        self.pending = pending

    def get_nowait(self) -> Any:
        return self.pending

    def put(self, output: Any) -> None:
        raise AssertionError("the collector was not replaced")


class _Llm:
    def __init__(self, pending: Any = None, added: bool = True) -> None:
        self.errored = False
        self.collectors: list[_Collector] = []
        self.aborted: list[tuple[str, bool]] = []
        self.ids: list[str] = []
        self._pending = pending
        self._added = asyncio.Event()
        if added:
            self._added.set()

    async def add_request(self, request_id: str, prompt: Any, params: Any) -> _Collector:
        self.ids.append(request_id)
        await self._added.wait()
        self.collectors.append(_Collector(f"{request_id}-internal", self._pending))
        return self.collectors[-1]

    async def abort(self, request_id: str, internal: bool = False) -> None:
        self.aborted.append((request_id, internal))


def _output(token: int, finished: bool = False) -> SimpleNamespace:
    completion = SimpleNamespace(
        index=0,
        token_ids=[token],
        text="x",
        logprobs=None,
        stop_reason=None,
        finish_reason="stop" if finished else None,
    )
    return SimpleNamespace(outputs=[completion], finished=finished, num_cached_tokens=0)


def _engine() -> VllmEngine:
    return VllmEngine(VllmEngineConfig(model="org/model"))


async def _begin(llm: Any, events: list[StreamEvent]) -> asyncio.Task[None]:
    """A request on its way."""
    task = asyncio.create_task(_engine()._run(llm, "id", PROMPT, PARAMS, OutputStream(events.append, 1, None)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_output_that_came_before_the_hand_over_is_not_lost() -> None:
    events: list[StreamEvent] = []
    llm = _Llm(pending=_output(5))
    task = await _begin(llm, events)
    llm.collectors[0].put(_output(6, finished=True))
    await task
    assert [type(event) for event in events] == [Accepted, TokenDelta, TokenDelta, Finished]
    assert [event.token_ids for event in events if isinstance(event, TokenDelta)] == [[5], [6]]
    assert llm.aborted == []


async def test_cancel_aborts_by_vllms_own_id_and_emits_nothing_more() -> None:
    events: list[StreamEvent] = []
    llm = _Llm()
    task = await _begin(llm, events)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    llm.collectors[0].put(_output(6))
    assert llm.aborted == [(llm.collectors[0].request_id, True)]
    assert [type(event) for event in events] == [Accepted]


async def test_cancel_while_the_request_is_being_added_aborts_it_too() -> None:
    events: list[StreamEvent] = []
    llm = _Llm(added=False)
    task = await _begin(llm, events)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert llm.aborted == [(llm.ids[0], False)]
    assert events == []


async def test_stream_that_ends_before_vllms_request_does_aborts_it() -> None:
    llm, events = _Llm(), list[StreamEvent]()
    task = await _begin(llm, events)
    stream = llm.collectors[0].put.__self__  # type: ignore[attr-defined]  # the stream that replaced it
    stream.cut = True
    llm.collectors[0].put(_output(6, finished=True))
    await task
    assert llm.aborted == [(llm.collectors[0].request_id, True)]


@pytest.mark.parametrize("added", [True, False])
async def test_sequences_count_as_load_for_as_long_as_they_are_vllms(added: bool) -> None:
    engine, llm = _engine(), _Llm(added=added)
    stream = OutputStream([].append, 3, None)  # type: ignore[arg-type]  # append takes any
    task = asyncio.create_task(engine._run(llm, "id", PROMPT, SimpleNamespace(n=3), stream))
    await asyncio.sleep(0)
    assert engine.load().waiting == 3
    task.cancel()
    await asyncio.wait([task])
    assert engine.load().waiting == 0


async def test_dead_engine_fails_the_request_and_is_not_asked_to_abort() -> None:
    llm = _Llm()
    task = await _begin(llm, [])
    llm.errored = True
    llm.collectors[0].put(RuntimeError("core died"))
    with pytest.raises(EngineFailed, match="core died"):
        await task
    assert llm.aborted == []


async def test_request_id_is_never_given_to_vllm_twice() -> None:
    engine, llm = _engine(), _Llm(pending=_output(5, finished=True))
    for _ in range(2):
        await engine._run(llm, "id", PROMPT, PARAMS, OutputStream([].append, 1, None))  # type: ignore[arg-type]  # append takes any
    assert len(set(llm.ids)) == 2


async def test_engine_that_was_not_started_says_so() -> None:
    with pytest.raises(EngineFailed):
        await _engine().check_health()
