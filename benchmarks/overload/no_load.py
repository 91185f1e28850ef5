"""CPU time that the router's core spends on a request when nothing is in the way.

One request at a time on four idle replicas: its offer, the engine's acceptance, its first token and its end. Real CPU
time, measured in batches of which the fastest counts: other processes can only add to it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from benchmarks.overload.gates import Check
from benchmarks.overload.jobs import MODEL
from serve_app.core.engine_status import EngineLoad, EngineStatus
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import Dispatch, Ended, EngineAccepted, EngineReported, Offer, ReplicasListed

NAME = "no_load"
TITLE = "CPU of one decision without load"
LIMIT_US = 50.0
_BATCHES = 20
_BATCH = 500


def decision_us() -> float:
    """Microseconds of CPU per request: all that the core does for it."""
    core = RouterCore([MODEL], RouterConfig(), random.Random(1))
    engines = [f"engine-{number}" for number in range(4)]
    now = 0.0
    core.handle(ReplicasListed(MODEL, frozenset(engines)), now)
    for engine in engines:
        status = EngineStatus(engine, MODEL, EngineLoad(), 64, 0, 1, True, 8192)
        core.handle(EngineReported(status), now)
    best = float("inf")
    for batch in range(_BATCHES):
        began = time.process_time()
        for stream_id in range(batch * _BATCH, (batch + 1) * _BATCH):
            now = _one_request(core, stream_id, now)
        best = min(best, (time.process_time() - began) / _BATCH)
        for engine in engines:  # not timed: heartbeats come with time, not with requests
            status = EngineStatus(engine, MODEL, EngineLoad(steps=batch + 1), 64, 0, 1, True, 8192)
            core.handle(EngineReported(status), now)
    return best * 1e6


def _one_request(core: RouterCore, stream_id: int, now: float) -> float:
    (dispatch,) = core.handle(Offer(stream_id, MODEL, 1000, 256, None), now)
    assert isinstance(dispatch, Dispatch)
    core.handle(EngineAccepted(stream_id, dispatch.attempt, 1010), now + 0.001)
    core.tokens_received(stream_id, 1, now + 0.002)
    core.handle(Ended(stream_id, True), now + 0.003)
    return now + 0.003


def check(measure: Callable[[], float] = decision_us) -> Check:
    """The gate."""
    return Check("CPU µs of a request's decisions", measure(), LIMIT_US)
