"""A Ray driver whose actor calls a served application by its Serve handle.

`python -m tests.support.handle_caller ADDRESS` prints what came back as one JSON object. The actor stands for any other
part of a Ray program, as a pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

import ray
from ray import serve

APPLICATION = "pair"


def body(model: str, max_tokens: int) -> dict[str, Any]:
    """A chat request."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me something."}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "seed": 7,
    }


class Caller:
    """Calls the router as another actor does."""

    def __init__(self) -> None:
        self._handle = serve.get_app_handle(APPLICATION)

    async def call(self) -> dict[str, Any]:
        """One answer of each kind."""
        whole = await self._handle.chat.remote(body("alpha", 20), tenant="pipeline")
        streaming = self._handle.options(stream=True)
        chunks = [chunk async for chunk in streaming.stream_chat.remote(body("alpha", 20))]
        many = await asyncio.gather(*(self._handle.chat.remote(body("beta", 10)) for _ in range(10)))
        error = ""
        try:
            await self._handle.chat.remote(body("gamma", 5))
        except Exception as raised:
            error = str(raised)
        await self._leave(streaming)
        return {"whole": whole, "chunks": chunks, "many": len(many), "error": error}

    async def _leave(self, streaming: Any) -> None:
        """Begin a long answer of either kind and give it up."""
        stream = streaming.stream_chat.remote(body("beta", 60_000))
        await anext(stream)
        stream.cancel()
        whole = self._handle.chat.remote(body("beta", 60_000))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_wait(whole), 1.0)


async def _wait(response: Any) -> None:
    try:
        await response
    finally:
        response.cancel()


def main() -> None:
    """Connect, call, print."""
    ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False, configure_logging=False)
    actor: Any = ray.remote(num_cpus=0)(Caller)
    json.dump(ray.get(actor.remote().call.remote()), sys.stdout)
    ray.shutdown()


if __name__ == "__main__":
    main()
