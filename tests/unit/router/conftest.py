from __future__ import annotations

import pytest

from serve_app.router import attempt_calls
from tests.support.fake_engines import ENDPOINT
from tests.unit.router.lifecycle_bench import Bench


@pytest.fixture
async def bench(monkeypatch):
    monkeypatch.setattr(attempt_calls, "LATE_EVENTS_S", 0.0)
    bench = Bench()
    await bench.router.start(ENDPOINT)
    yield bench
    await bench.router.close()
