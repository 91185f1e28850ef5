"""Decides which faults strike a simulated engine, and when: drawn from a seeded source, or as listed."""

from __future__ import annotations

import random

from serve_app.engine.simulated.config import FaultConfig, RequestFault


class FaultPlan:
    """All faults of one engine. Times are seconds since the engine started."""

    def __init__(self, config: FaultConfig) -> None:
        self._config = config
        self._random = random.Random(config.seed)
        self._listed = {fault.request: fault for fault in config.requests}
        self._draws = config.error_probability + config.stall_probability + config.crash_probability > 0
        self._timed = config.timed
        crashes = [fault.after_s for fault in config.timed if fault.kind == "crash"]
        self._crash_s = min(crashes) if crashes else None

    def start_fails(self) -> bool:
        """Whether this attempt to start fails; each call is one attempt."""
        return self._random.random() < self._config.start_failure_probability

    def for_request(self, number: int) -> RequestFault | None:
        """The fault of the `number`-th request, counted from 1; ask once for each, in order."""
        drawn = self._draw(number) if self._draws else None
        return self._listed.get(number, drawn)

    def _draw(self, number: int) -> RequestFault | None:
        config = self._config
        lot = self._random.random()
        token = self._random.randrange(config.within_tokens)
        if lot < config.error_probability:
            return RequestFault(kind="error", request=number, token=token)
        lot -= config.error_probability
        if lot < config.stall_probability:
            return RequestFault(kind="stall", request=number, token=token, stall_s=config.stall_s)
        if lot - config.stall_probability < config.crash_probability:
            return RequestFault(kind="crash", request=number, token=token)
        return None

    def crashed(self, age_s: float) -> bool:
        """Whether a timed crash has struck by `age_s`."""
        return self._crash_s is not None and age_s >= self._crash_s

    def step_duration(self, age_s: float, duration_s: float) -> float:
        """Seconds that a step begun at `age_s` takes instead of `duration_s`."""
        for fault in self._timed:
            if fault.kind == "slow" and fault.after_s <= age_s < fault.after_s + fault.for_s:
                duration_s *= fault.factor
        for fault in self._timed:
            if fault.kind == "stall" and age_s < fault.after_s + fault.for_s and age_s + duration_s > fault.after_s:
                duration_s = fault.after_s + fault.for_s - age_s
        return duration_s
