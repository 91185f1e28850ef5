"""A router's lifecycle over fake engines."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry

from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.request import GenerationRequest, Prompt
from serve_app.core.served_models import one_pool_each
from serve_app.router.config import RouterConfig
from serve_app.router.lifecycle import RouterLifecycle
from serve_app.telemetry.config import TelemetryConfig
from serve_app.telemetry.logging import RequestLog
from serve_app.telemetry.metrics import ServeMetrics
from tests.support.fake_engines import Call, FakeEngineCaller, status
from tests.support.settling import settle

ANSWER: list[StreamEvent] = [
    Accepted(3, [1, 2, 3]),
    TokenDelta(0, 0, 1, "Hel", [5]),
    TokenDelta(0, 1, 1, "lo", [6]),
    Finished(0, FinishReason.STOP, cached_tokens=1),
]


class Bench:
    """A lifecycle over fake engines, with a clock that only tests move."""

    def __init__(self, **config) -> None:
        self.now = 100.0
        self.caller = FakeEngineCaller()
        self.metrics = ServeMetrics(CollectorRegistry(), ["m"])
        self.router = RouterLifecycle(
            one_pool_each("m"),
            1,
            RouterConfig(**config),
            self.caller,
            self.metrics,
            RequestLog(TelemetryConfig(request_log=False)),
            clock=lambda: self.now,
            rng=random.Random(0),
        )

    def engine(self, engine_id: str = "e1", capacity: int = 4) -> None:
        self.router.replicas_listed("m", frozenset({engine_id}))
        self.router.on_status(status(engine_id, capacity=capacity))

    def open(self, text: str = "hi"):
        return self.router.open(GenerationRequest("r", "m", Prompt(text=text)))

    async def call(self, number: int = 0) -> Call:
        await settle()
        return self.caller.calls[number]

    def sample(self, name: str, **labels: str) -> float:
        """The value of one metric."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        for line in self.metrics.text().decode().splitlines():
            if line.startswith(name) and all(label in line for label in wanted):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no sample {name} {labels}")


async def read_all(stream) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    while (batch := await stream.next()) is not None:
        events.extend(batch)
    return events
