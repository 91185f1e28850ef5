"""Behind HAProxy, with Serve's calls over gRPC, a killed router loses nothing of streams that are resumed either."""

from __future__ import annotations

import asyncio
import os
import signal

from serve_app.engine.simulated.config import SimulatedEngineConfig
from tests.integration.haproxy.conftest import FAST
from tests.support.polling import eventually_async
from tests.support.resuming_reader import ResumedAnswer, read_resuming
from tests.support.served_app import API_KEY, ServedApp, chat
from tests.support.simulated_answers import whole_answer

WHOLE = {"Router": 2, "Engine-fast": 1}
STREAMS = 12
TOKENS = 500
"""Five seconds."""
_ENGINE_CONFIG = SimulatedEngineConfig.model_validate(FAST["args"]["models"][0]["engine"])


async def test_a_killed_router_loses_nothing_of_what_it_served(fast: ServedApp) -> None:
    await fast.until_whole(WHOLE)
    bodies = [
        chat("fast", TOKENS, f"Story number {number}.", temperature=1.0, seed=number) for number in range(STREAMS)
    ]
    results = [ResumedAnswer() for _ in bodies]
    url, tenant = f"{fast.url}/v1/chat/completions", {"Authorization": f"Bearer {API_KEY}"}
    tasks = [
        asyncio.create_task(read_resuming(url, body, dict(tenant), result))
        for body, result in zip(bodies, results, strict=True)
    ]

    async def all_have_text() -> bool:
        return all(result.answer.text for result in results)

    await eventually_async(all_have_text, 15.0, "all streams have begun")
    page = await fast.scrape()
    victim, survivor = await fast.replicas("Router")
    served = page.total("serve_app_concurrent_streams", replica=victim.replica_id)
    assert 0 < served < STREAMS
    os.kill(victim.pid, signal.SIGKILL)
    await asyncio.gather(*tasks)

    assert [result.answer.error for result in results] == [None] * STREAMS
    assert [result.answer.text for result in results] == [whole_answer(_ENGINE_CONFIG, body).text for body in bodies]
    assert all(result.ends for result in results)
    resumed = (await fast.scrape()).total(
        "serve_app_resumed_streams_total", replica=survivor.replica_id, place="engine"
    )
    assert resumed > 0
    await fast.until_whole(WHOLE, without=[victim])
    await fast.until_idle(30.0)
