"""Several models, routers and engine replicas in one application."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.support.polling import eventually_async
from tests.support.served_app import ServedApp, chat


async def test_both_models_are_listed_and_answer(pair: ServedApp) -> None:
    assert [model.id async for model in pair.openai.models.list()] == ["alpha", "beta"]
    for model in ("alpha", "beta"):
        answer = await pair.openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "hello"}], max_tokens=5
        )
        assert answer.model == model
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 5


async def test_unknown_model_is_a_404_that_names_the_served_ones(pair: ServedApp) -> None:
    with pytest.raises(openai.NotFoundError, match="alpha, beta") as caught:
        await pair.openai.chat.completions.create(model="gamma", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "model_not_found"


async def test_load_spreads_over_routers_and_engines(pair: ServedApp) -> None:
    before = await pair.scrape()
    streams = [asyncio.create_task(pair.stream(chat("alpha", 100))) for _ in range(16)]

    async def both_engines_work() -> bool:
        page = await pair.scrape()
        engines = page.labels("engine", "serve_app_engine_generations", model="alpha")
        busy = [page.largest("serve_app_engine_generations", engine=engine) for engine in engines]
        return len(busy) == 2 and min(busy) >= 4

    await eventually_async(both_engines_work, 10.0, "each engine replica runs at least 4 of 16 generations")
    assert all(stream.complete for stream in await asyncio.gather(*streams))
    page = await pair.scrape()
    for router in page.labels("replica", "serve_app_requests_total"):
        served = [p.total("serve_app_requests_total", outcome="completed", replica=router) for p in (before, page)]
        assert served[1] - served[0] >= 2, f"router {router} served {served[1] - served[0]} of 16 requests"


async def test_every_scrape_shows_all_replicas_and_the_same_totals(pair: ServedApp) -> None:
    await pair.until_idle(10.0)
    pages = [await pair.scrape() for _ in range(12)]
    for page in pages:
        assert len(page.labels("replica", "serve_app_requests_total", deployment="Router")) == 2
        assert len(page.labels("engine", "serve_app_engine_ready", model="alpha")) == 2
    for name in ("requests_total", "output_tokens_total", "time_to_first_token_seconds_count"):
        totals = {page.total(f"serve_app_{name}") for page in pages}
        assert len(totals) == 1, f"{name} depends on the router that answers: {totals}"


async def test_metrics_count_what_clients_saw(pair: ServedApp) -> None:
    await pair.until_idle(10.0)
    before = await pair.scrape()
    streams = await asyncio.gather(*(pair.stream(chat("beta", 20)) for _ in range(10)))
    assert all(stream.complete for stream in streams)
    wrong = await pair.post({"model": "beta", "messages": "none"})
    assert wrong.status_code == 400
    after = await pair.scrape()

    def gained(name: str, **labels: str) -> float:
        return after.total(f"serve_app_{name}", **labels) - before.total(f"serve_app_{name}", **labels)

    assert gained("requests_total", model="beta", outcome="completed") == 10
    assert gained("requests_total", model="alpha") == 0
    assert gained("time_to_first_token_seconds_count", model="beta") == 10
    assert gained("time_per_output_token_seconds_count", model="beta") == 10
    assert gained("stream_duration_seconds_count", model="beta") == 10
    assert gained("queue_wait_seconds_count", model="beta") == 10
    assert gained("inter_token_latency_seconds_count", model="beta") > 10
    assert gained("output_tokens_total", model="beta") == 200
    assert gained("prompt_tokens_total", model="beta") > 10
    assert after.total("serve_app_concurrent_streams") == 0
    # 19 gaps of 5 ms each at least, and 10 streams share one machine with others: only the lower bound is certain.
    mean = gained("time_per_output_token_seconds_sum", model="beta") / 10
    assert mean >= 0.004
