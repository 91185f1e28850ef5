"""One application of a cluster, as its clients and operators see it."""

from __future__ import annotations

from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.support.polling import eventually_async
from tests.support.scrape import Scrape
from tests.support.serve_cluster import ServeCluster
from tests.support.sse_client import StreamedAnswer, read_stream

CLIENT_TIMEOUT_S = 60.0


class ServedApp:
    """Clients for one application. Use `async with`; make it within the test that uses it."""

    def __init__(self, cluster: ServeCluster, name: str, prefix: str) -> None:
        """`prefix` is its route prefix without a slash at the end."""
        self.cluster = cluster
        self.name = name
        self.url = cluster.url + prefix
        self.http = httpx.AsyncClient(
            timeout=CLIENT_TIMEOUT_S, trust_env=False, limits=httpx.Limits(max_connections=200)
        )
        self.openai = AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=CLIENT_TIMEOUT_S,
        )

    async def __aenter__(self) -> ServedApp:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()
        await self.openai.close()

    async def post(self, body: dict[str, Any], **headers: str) -> httpx.Response:
        """A chat request; names of headers have `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=named)

    async def stream(self, body: dict[str, Any], answer: StreamedAnswer | None = None) -> StreamedAnswer:
        """A streaming chat request, read to its end."""
        return await read_stream(self.http, f"{self.url}/v1/chat/completions", body, answer)

    async def scrape(self) -> Scrape:
        """`/metrics` now."""
        answer = await self.http.get(f"{self.url}/metrics")
        return Scrape(answer.raise_for_status().text)

    async def generations(self) -> float:
        """Generations that run in the application's engines, as each router knows, summed."""
        return (await self.scrape()).total("serve_app_engine_generations")

    async def until_generating(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until routers see at least `count` running generations."""

        async def enough() -> bool:
            return await self.generations() >= count

        await eventually_async(enough, timeout_s, f"{count} generations run in {self.name}")

    async def until_idle(self, timeout_s: float) -> None:
        """Wait until no engine runs anything and no stream is left; fails after `timeout_s` seconds."""

        async def idle() -> bool:
            page = await self.scrape()
            names = ("engine_generations", "engine_running", "engine_waiting", "concurrent_streams", "queue_depth")
            return sum(page.total(f"serve_app_{name}") for name in names) == 0

        await eventually_async(idle, timeout_s, f"{self.name} is idle again")


def chat(model: str, max_tokens: int, content: str = "Tell me something.", **further: Any) -> dict[str, Any]:
    """A chat request that always gets `max_tokens` tokens from the simulated engine."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        **further,
    }
