"""Health, readiness, metrics and headers of the served real model."""

from __future__ import annotations

import contextlib

import psutil

from tests.integration.real.questions import CAPITAL, MODEL
from tests.support.served_app import ServedApp


async def test_health_and_readiness_answer_200(app: ServedApp) -> None:
    for path, state in (("health", "ok"), ("ready", "ready")):
        answer = await app.http.get(f"{app.url}/{path}")
        assert (answer.status_code, answer.json()) == (200, {"status": state})


async def test_stream_has_the_headers_that_proxies_need(app: ServedApp) -> None:
    answer = await app.stream(CAPITAL)
    assert answer.complete
    assert "Paris" in answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers
    assert len(answer.headers.get_list("x-request-id")) == 1


async def test_callers_request_id_comes_back(app: ServedApp) -> None:
    answer = await app.post(CAPITAL, x_request_id="trace-7")
    assert answer.headers.get_list("x-request-id") == ["trace-7"]


async def test_metrics_count_requests_and_tokens_of_the_real_model(app: ServedApp) -> None:
    before = await app.scrape()
    answers = [await app.openai.chat.completions.create(**CAPITAL) for _ in range(3)]
    after = await app.scrape()

    def gained(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    prompts = sum(answer.usage.prompt_tokens for answer in answers if answer.usage)
    outputs = sum(answer.usage.completion_tokens for answer in answers if answer.usage)
    assert gained("serve_app_requests_total", model=MODEL, outcome="completed") == 3
    assert gained("serve_app_time_to_first_token_seconds_count", model=MODEL) == 3
    assert gained("serve_app_prompt_tokens_total", model=MODEL) == prompts
    assert gained("serve_app_output_tokens_total", model=MODEL) == outputs
    assert after.total("serve_app_engine_ready", model=MODEL) == 1
    assert after.total("serve_app_engine_capacity", model=MODEL) == 32


async def test_vllms_own_metrics_are_shown_with_their_replica(app: ServedApp) -> None:
    before = await app.scrape()
    await app.openai.chat.completions.create(**CAPITAL)
    after = await app.scrape()
    (engine,) = after.labels("engine", "serve_app_engine_ready")
    name = "vllm:generation_tokens_total"
    labels = {"replica": engine, "deployment": "Engine-smollm2"}
    assert after.total(name, **labels) > before.total(name, **labels)
    assert len({shown for shown in after.names() if shown.startswith("vllm:")}) > 20


async def test_everything_together_fits_into_a_machine_of_8_gb(app: ServedApp) -> None:
    assert (await app.post(CAPITAL)).status_code == 200
    used = 0
    for process in app.cluster.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            used += psutil.Process(process.pid).memory_full_info().pss
    assert used < 6 * 2**30, f"{used / 2**30:.1f} GiB; two are for the system and the clients"
