"""Tells which replicas are much slower than the rest of their pool, from first tokens and from the pace of tokens.

Sources: Envoy's and gRPC's (gRFC A50) outlier detection compare each host with its pool; both look at success rates,
against mean and standard deviation, which few and slow hosts distort. Here times are compared with the *median* of the
other replicas. A slow replica completes little, so that its finished requests say little: an attempt that still waits
for its first token counts already with the time that it has waited (in survival analysis, a right-censored
observation), and the pace of running streams is read from the engine's step counter.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from pydantic import BaseModel, ConfigDict, Field

_BUCKETS = 16
_Sample = tuple[float, float, int]
"""Clock reading, seconds, bucket."""


class SlownessConfig(BaseModel):
    """What counts as slow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(default=4.0, gt=1)
    """A replica is slow when its median is so many times the pool's. A full batch alone makes an engine two to three
    times slower than an idle one, and least-loaded choice already gives a somewhat slower replica less."""
    return_factor: float = Field(default=2.5, gt=1)
    """A probe shows a recovered replica when it is below so many times the pool's median: lower than `factor`, so that
    a replica at the border does not come and go."""
    samples: int = Field(default=8, ge=1)
    """Newest observations that are looked at. Fewer notice sooner and err more often."""
    min_samples: int = Field(default=4, ge=1)
    """Observations that an established replica must have before it is judged."""
    min_samples_unproven: int = Field(default=1, ge=1)
    """The same while it ramps up: with no good history, the first slow answer means that it is cold."""
    min_reference_samples: int = Field(default=3, ge=1)
    """Observations that the other replicas must have together."""
    sustained_s: float = Field(default=2.0, ge=0)
    """Seconds for which an established replica must look slow without a break: a busy engine answers several requests
    while it works off one long prompt."""
    max_age_s: float = Field(default=60.0, gt=0)
    """Seconds after which an observation no longer counts."""
    ttft_floor_s: float = Field(default=0.05, ge=0)
    """A first token within so many seconds is never slow, whatever the pool does: nobody would notice."""
    unproven_floor_s: float = Field(default=0.5, ge=0)
    """A ramping replica whose first token takes longer than this, and is slow beside the pool's, is cold: no further
    evidence is needed."""
    tpot_floor_s: float = Field(default=0.02, ge=0)
    """The same for seconds per output token: 50 tokens per second and stream."""
    pace_window_s: float = Field(default=0.5, gt=0)
    """Seconds of engine steps that make one observation of its pace; three are needed."""


@dataclass(slots=True)
class Speed:
    """What is known of the speed of one replica. Observations belong to it until `clear`."""

    ttft: deque[_Sample]
    tpot: deque[_Sample]
    pace: deque[_Sample]
    unproven: bool = True
    """It ramps up: judged on little."""
    awaiting: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Attempts without a first token, oldest first: their dispatch time and prompt tokens."""
    queueing: bool = False
    """The engine has a queue or a full KV cache: its first tokens tell of load, not of speed."""
    slow_since: float | None = None
    """Since when it has looked slow at every look."""
    cleared_at: float = 0.0
    """Attempts dispatched before are not looked at."""
    _steps: int = 0
    _steps_at: float = -1.0
    _window_steps: int = 0
    _window_s: float = 0.0

    def clear(self, now: float) -> None:
        """Forget all observations: the replica starts over."""
        self.cleared_at = now
        self.slow_since = None
        self.ttft.clear()
        self.tpot.clear()
        self.pace.clear()
        self._window_steps = 0
        self._window_s = 0.0

    def stepped(self, steps: int, running: int, window_s: float, now: float) -> None:
        """Take the engine's step counter: a step gives every decoding stream a token, so their distance is the TPOT.

        Only spans in which the engine had work count; one with work but without steps (a long prompt, a stall) is no
        observation by itself, as the first-token and stall timeouts look after those.
        """
        if self._steps_at >= 0 and steps > self._steps and running > 0 and now - self._steps_at <= 4 * window_s:
            self._window_steps += steps - self._steps
            self._window_s += now - self._steps_at
            if self._window_s >= window_s and self._window_steps >= 4:
                self.pace.append((now, self._window_s / self._window_steps, 0))
                self._window_steps = 0
                self._window_s = 0.0
        if steps != self._steps or running == 0 or self._steps_at < 0:
            self._steps = steps
            self._steps_at = now if running > 0 else -1.0


class Slowness:
    """Compares the replicas of one pool. Pure and single-threaded.

    First tokens are compared after division by what the pool as a whole takes for prompts of that size, learned in
    powers of two; the division only has to be the same for all replicas.
    """

    def __init__(self, config: SlownessConfig) -> None:
        self._config = config
        self._log_expected = [0.0] * _BUCKETS
        self._expected = [0.0] * _BUCKETS
        self._weight = [0.0] * _BUCKETS
        self._reference: list[float | None] = [None, None, None]

    def new_speed(self) -> Speed:
        """The record of a new replica."""
        n = self._config.samples
        return Speed(deque(maxlen=n), deque(maxlen=n), deque(maxlen=3))

    @staticmethod
    def bucket(prompt_tokens: int) -> int:
        """The class of prompts of about this size."""
        return min(max(prompt_tokens, 32).bit_length() - 6, _BUCKETS - 1)

    def first_token(self, speed: Speed, ttft_s: float, uncached_prompt_tokens: int, now: float) -> None:
        """Learn a first token of the replica, `ttft_s` seconds after its dispatch."""
        bucket = self.bucket(uncached_prompt_tokens)
        speed.ttft.append((now, ttft_s, bucket))
        # The mean of logarithms is what a typical request takes even if one in many takes ten times as long.
        weight = self._weight[bucket] = min(self._weight[bucket] + 1, 100.0)
        log_expected = self._log_expected[bucket]
        log_expected += (math.log(max(ttft_s, 1e-6)) - log_expected) / weight
        self._log_expected[bucket] = log_expected
        self._expected[bucket] = math.exp(log_expected)

    def gave_up(self, speed: Speed, waited_s: float, prompt_tokens: int, now: float) -> None:
        """An attempt ended without a first token after a wait that was slow already."""
        speed.ttft.append((now, waited_s, self.bucket(prompt_tokens)))

    def is_slow_first_token(self, ttft_s: float, prompt_tokens: int, factor: float | None = None) -> bool:
        """Whether this one first token is slow beside the pool's; False while the pool's is unknown."""
        config = self._config
        if ttft_s < config.ttft_floor_s:
            return False
        return self._ratio(ttft_s, self.bucket(prompt_tokens)) > (factor or config.factor) * (
            self._reference[0] or math.inf
        )

    def is_slow_pace(self, speed: Speed, since: float) -> bool | None:
        """Whether the replica's newest pace is slow beside the pool's; None when none was seen after `since`."""
        if not speed.pace or speed.pace[-1][0] < since or self._reference[2] is None:
            return None
        return self._far(speed.pace[-1][1], self._reference[2])

    def is_slow_tpot(self, tpot_s: float) -> bool:
        """Whether a finished stream of so many seconds per token was slow beside the pool's."""
        return self._reference[1] is not None and self._far(tpot_s, self._reference[1])

    def find_slow(self, speeds: Sequence[Speed], now: float) -> list[Speed]:
        """Those of `speeds` (the replicas in service) that are slow beside the others, the slowest first.

        Also remembers the pool's medians, against which single answers are judged until the next call. Call it several
        times a second: a replica is slow when it has looked so for some time.
        """
        worst: dict[int, float] = {}
        cold: set[int] = set()
        for signal in range(3):
            scores = [self._score(speed, signal, now) for speed in speeds]
            known = sorted(score for score, _, _ in scores if score is not None)
            if not known:
                continue
            self._reference[signal] = _median_low(known)
            least = self._config.factor * known[0]
            for i, speed in enumerate(speeds):
                if signal == 0 and speed.queueing:
                    continue
                if (scores[i][0] or 0.0) > least or (signal == 0 and self._late(speed, least, now)):
                    excess, is_cold = self._excess(i, speed, signal, scores, now)
                    if excess > 1:
                        worst[i] = max(worst.get(i, 0.0), excess)
                        if is_cold:
                            cold.add(i)
        for i, speed in enumerate(speeds):
            if i not in worst:
                speed.slow_since = None
            else:
                since = speed.slow_since = now if speed.slow_since is None else speed.slow_since
                if i not in cold and now - since < self._config.sustained_s:
                    del worst[i]
        return [speeds[i] for i in sorted(worst, key=worst.__getitem__, reverse=True)]

    def _excess(
        self, index: int, speed: Speed, signal: int, scores: list[tuple[float | None, float, int]], now: float
    ) -> tuple[float, bool]:
        """By how much the replica exceeds what is still not slow (at most 1: not), and whether it is cold."""
        config = self._config
        others = sorted(s[0] for i, s in enumerate(scores) if i != index and s[0] is not None)
        if not others or sum(s[2] for i, s in enumerate(scores) if i != index) < config.min_reference_samples:
            return 0.0, False
        bar = config.factor * _median_low(others)
        score, seconds, count = scores[index]
        if signal == 0:
            late = self._late(speed, bar, now)
            if late:
                recent = sorted([*self._fresh(speed, 0, now), *late][-config.samples :])
                score, seconds = recent[len(recent) // 2]
                count = len(recent)
        needed = 3 if signal == 2 else config.min_samples
        floor = config.ttft_floor_s if signal == 0 else config.tpot_floor_s
        cold = signal == 0 and speed.unproven and seconds >= config.unproven_floor_s
        if cold:
            needed = config.min_samples_unproven
        if score is None or count < needed or seconds < floor or bar <= 0:
            return 0.0, False
        return score / bar, cold

    def _late(self, speed: Speed, bar: float, now: float) -> list[tuple[float, float]]:
        """Attempts that have waited longer for their first token than is fast enough, at most as many as samples."""
        late: list[tuple[float, float]] = []
        for dispatched_at, prompt_tokens in islice(speed.awaiting.values(), 4 * self._config.samples):
            age = now - dispatched_at
            if age < self._config.ttft_floor_s or len(late) == self._config.samples:
                break
            ratio = self._ratio(age, self.bucket(prompt_tokens))
            if ratio > bar and dispatched_at >= speed.cleared_at:
                late.append((ratio, age))
        return late

    def _score(self, speed: Speed, signal: int, now: float) -> tuple[float | None, float, int]:
        """The replica's median in this signal, the seconds behind it, and the number of observations."""
        recent = sorted(self._fresh(speed, signal, now))
        if not recent:
            return None, 0.0, 0
        ratio, seconds = recent[len(recent) // 2]
        return ratio, seconds, len(recent)

    def _fresh(self, speed: Speed, signal: int, now: float) -> list[tuple[float, float]]:
        samples = speed.ttft if signal == 0 else speed.tpot if signal == 1 else speed.pace
        oldest = now - self._config.max_age_s
        if signal == 0:
            return [(self._ratio(seconds, bucket), seconds) for at, seconds, bucket in samples if at >= oldest]
        return [(seconds, seconds) for at, seconds, _ in samples if at >= oldest]

    def _ratio(self, ttft_s: float, bucket: int) -> float:
        """`ttft_s` over what the pool takes for such prompts; sizes never seen are estimated from the next known."""
        expected = self._expected
        if expected[bucket]:
            return ttft_s / expected[bucket]
        for distance in range(1, _BUCKETS):
            smaller, larger = bucket - distance, bucket + distance
            if larger < _BUCKETS and expected[larger]:
                return ttft_s / expected[larger]
            if smaller >= 0 and expected[smaller]:
                return ttft_s / (expected[smaller] * 2.0**distance)
        return 0.0

    def _far(self, seconds: float, reference: float) -> bool:
        return seconds >= self._config.tpot_floor_s and seconds > self._config.return_factor * reference


def _median_low(ordered: Sequence[float]) -> float:
    return ordered[(len(ordered) - 1) // 2]
