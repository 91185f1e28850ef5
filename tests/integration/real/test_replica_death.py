"""A killed replica of the real engine leaves no process behind, and its successor serves those who wait."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil

from tests.integration.real.questions import CAPITAL
from tests.support.polling import eventually
from tests.support.served_app import ServedApp

GONE_WITHIN_S = 5.0
"""A left-behind engine would keep its memory; nothing promises an instant, and the guard looks twice a second."""


async def test_killed_engine_takes_its_processes_along_and_its_successor_answers_who_waits(app: ServedApp) -> None:
    (victim,) = await asyncio.to_thread(app.cluster.replicas, "serve_app", "Engine-smollm2")
    started = psutil.Process(victim.pid).children(recursive=True)
    os.kill(victim.pid, signal.SIGKILL)
    await asyncio.to_thread(eventually, lambda: not _alive(started), GONE_WITHIN_S, f"{started} ended")
    waiting = app.openai.with_options(max_retries=10)
    answers = await asyncio.gather(*(waiting.chat.completions.create(**CAPITAL) for _ in range(2)))
    assert all("Paris" in (answer.choices[0].message.content or "") for answer in answers)
    (successor,) = await asyncio.to_thread(app.cluster.replicas, "serve_app", "Engine-smollm2")
    assert successor != victim


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
