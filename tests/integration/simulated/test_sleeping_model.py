"""A model whose engine deployment may scale to zero wakes up for a request."""

from __future__ import annotations

import asyncio

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat

FALLS_ASLEEP_WITHIN_S = 30.0


async def test_sleeping_model_wakes_for_a_request_and_sleeps_again(sleeper: ServedApp) -> None:
    await _until_replicas(sleeper, 0)
    ready = await sleeper.http.get(f"{sleeper.url}/ready")
    assert ready.status_code == 200, "a load balancer must let through what wakes it"
    answers = await asyncio.gather(*(sleeper.post(chat("sleeper", 10)) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len(await _replicas(sleeper)) == 1
    await _until_replicas(sleeper, 0)


async def test_replica_that_streams_is_not_put_to_sleep(sleeper: ServedApp) -> None:
    answer = await sleeper.stream(chat("sleeper", 500))
    assert answer.complete


async def _replicas(app: ServedApp) -> list[object]:
    return list(await asyncio.to_thread(app.cluster.replicas, app.name, "Engine-sleeper"))


async def _until_replicas(app: ServedApp, count: int) -> None:
    async def there() -> bool:
        return len(await _replicas(app)) == count

    await eventually_async(there, FALLS_ASLEEP_WITHIN_S, f"{count} engine replicas run")
