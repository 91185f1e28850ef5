"""An admission queue of small bounds, and streams to offer it."""

from __future__ import annotations

from serve_app.core.request import ANONYMOUS_TENANT, Priority
from serve_app.resilience.admission_queue import AdmissionConfig, AdmissionQueue, Bands, WhenFull
from serve_app.resilience.fair_band import BandLimits, Offered
from serve_app.resilience.waiting import Waiting

INTERACTIVE, DEFAULT, BATCH = Priority


def make_queue(
    requests: int = 10,
    tokens: int = 1000,
    in_line: int = 0,
    weights: dict[str, float] | None = None,
    promotion_s: float = 20.0,
    share: float = 0.1,
) -> AdmissionQueue:
    limits = BandLimits(requests=requests, tokens=tokens)
    return AdmissionQueue(
        AdmissionConfig(
            bands=Bands(interactive=limits, default=limits, batch=limits),
            tenant_weights=weights or {},
            starvation_promotion_s=promotion_s,
            starvation_share=share,
            when_full=WhenFull.WAIT if in_line else WhenFull.REFUSE,
            in_line_limit=in_line or 1,
        )
    )


def waits(
    stream_id: int,
    tenant: str = ANONYMOUS_TENANT,
    priority: Priority = DEFAULT,
    tokens: int = 1,
    output: int = 0,
    at: float = 0.0,
) -> Waiting:
    return Waiting(stream_id, tenant, priority, tokens, output, at)


def offer(queue: AdmissionQueue, waiting: Waiting) -> Offered:
    result = queue.offer(waiting, waiting.offered_at)
    assert result.displaced == ()
    return result.offered


def drain(queue: AdmissionQueue, now: float = 0.0) -> list[int]:
    served = []
    while (head := queue.head(now)) is not None:
        served.append(queue.take(head, now).stream_id)
    return served
