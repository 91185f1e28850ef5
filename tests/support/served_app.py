"""One application of a cluster, as its clients and operators see it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.support.openapi_check import CheckedTransport, OpenApiCheck
from tests.support.polling import eventually_async
from tests.support.scrape import Scrape
from tests.support.serve_cluster import Replica, ServeCluster
from tests.support.sse_client import StreamedAnswer, read_stream

CLIENT_TIMEOUT_S = 60.0
API_KEY = "none"
"""Of all clients: they are one tenant."""
WHOLE_WITHIN_S = 60.0


class ServedApp:
    """Clients for one application. Use `async with`; make it within the test that uses it."""

    def __init__(self, cluster: ServeCluster, name: str, prefix: str) -> None:
        """`prefix` is its route prefix without a slash at the end."""
        self.cluster = cluster
        self.name = name
        self.url = cluster.url + prefix
        self.answers = OpenApiCheck()
        """Holds every answer to `/openapi.json`."""
        network = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=200), trust_env=False)
        self.http = httpx.AsyncClient(
            transport=CheckedTransport(network, self.url, self.answers),
            timeout=CLIENT_TIMEOUT_S,
            trust_env=False,
            headers={"Authorization": f"Bearer {API_KEY}"},
        )
        self.openai = AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=API_KEY,
            max_retries=0,
            timeout=CLIENT_TIMEOUT_S,
        )

    async def __aenter__(self) -> ServedApp:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        await self.http.aclose()
        await self.openai.close()
        if kind is None:
            self.answers.verify()

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

    async def replicas(self, deployment: str) -> list[Replica]:
        """The deployment's running replicas."""
        return await asyncio.to_thread(self.cluster.replicas, self.name, deployment)

    async def kill_busiest(self, deployment: str) -> Replica:
        """Kill the replica of a deployment of routers or engines that has most streams, and return it."""
        work, label = ("engine_generations", "engine") if deployment != "Router" else ("concurrent_streams", "replica")
        page = await self.scrape()
        busy = {
            one: page.total(f"serve_app_{work}", **{label: one.replica_id}) for one in await self.replicas(deployment)
        }
        victim = max(busy, key=lambda one: busy[one])
        assert busy[victim] > 0
        os.kill(victim.pid, signal.SIGKILL)
        return victim

    async def until_whole(self, counts: Mapping[str, int], without: Sequence[Replica] = ()) -> None:
        """Wait until so many replicas of each deployment run, none of them in `without`, and each router finds each
        engine ready. `counts` is by deployment name."""

        async def whole() -> bool:
            running = {name: await self.replicas(name) for name in counts}
            if any(len(found) != counts[name] or set(found) & set(without) for name, found in running.items()):
                return False
            page = await self.scrape()
            return all(
                page.total("serve_app_engine_ready", replica=router.replica_id, engine=engine.replica_id) == 1
                for router in running["Router"]
                for name, engines in running.items()
                if name != "Router"
                for engine in engines
            )

        await eventually_async(whole, WHOLE_WITHIN_S, f"{self.name} is whole")

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
