"""What readers of kept answers leave behind: nothing, however many they are."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

from serve_app.core.errors import EngineLost, StreamCancelled
from serve_app.ingress.http.application import Api
from serve_app.ingress.resume.stream_id import sign
from tests.support.asgi_reader import read_events
from tests.support.retained_api import RouterOf, api_of
from tests.support.retained_reading import virtual
from tests.support.retained_world import MODEL, World

CHAT = "/v1/chat/completions"
READERS = 10_000


async def _cancelled(world: World, api: Api) -> str:
    """The path of a stream that was cancelled after a few tokens."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000, "stream": True}
    await read_events(api, "POST", CHAT, json.dumps(body).encode(), {"x-stream-resume": "true"}, leave_after=5)
    (key,) = world["r0"]._kept
    await world["r0"].cancel(key, "anonymous")
    return f"/v1/streams/{sign(RouterOf.signing_key, key, 'anonymous')}"


async def _get(api: Api, path: str) -> None:
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}

    async def receive() -> dict[str, Any]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nothing comes")

    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    await api({**scope, "headers": [(b"x-pad", b"y" * 4000)]}, receive, send)
    assert b"stream_cancelled" in sent[-1]


@virtual
async def test_memory_does_not_grow_with_the_readers_of_one_cancelled_stream() -> None:
    async with World(routers=1, engines=1, keep_s=1e9) as world:
        api = api_of(world, "r0")
        path = await _cancelled(world, api)
        for _ in range(20):
            await _get(api, path)
        gc.collect()
        before = len(gc.get_objects())
        gc.disable()  # what goes, goes by itself
        try:
            for _ in range(READERS):
                await _get(api, path)
            left = len(gc.get_objects()) - before
        finally:
            gc.enable()

        assert left < READERS / 50
        (kept,) = world["r0"]._kept.values()
        assert isinstance(kept.answer.error, StreamCancelled)
        assert kept.answer.error.__traceback__ is None


@virtual
async def test_a_kept_error_holds_nothing_of_where_it_arose() -> None:
    async with World(routers=1, engines=1, keep_s=1e9) as world:
        api = api_of(world, "r0")
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000, "stream": True}
        await read_events(api, "POST", CHAT, json.dumps(body).encode(), {"x-stream-resume": "true"}, leave_after=5)
        (kept,) = world["r0"]._kept.values()
        assert kept.live is not None
        try:
            raise EngineLost("gone") from ValueError("inner")
        except EngineLost as error:
            kept.live.end(error)

        kept_error = kept.answer.error
        assert isinstance(kept_error, EngineLost) and kept_error.message == "gone"
        assert (kept_error.__traceback__, kept_error.__cause__, kept_error.__context__) == (None, None, None)
