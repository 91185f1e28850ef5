"""How long to wait for a stream's first token, and between tokens, before the replica counts as stuck."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serve_app.resilience.quantiles import RecentQuantiles

_FIXED_COST_TOKENS = 512
"""The part of a TTFT that does not grow with the prompt, expressed as prompt tokens."""
_TIMEOUTS_PER_DOUBLING = 8
_MAX_DOUBLINGS = 4


class StreamTimeoutsConfig(BaseModel):
    """`args.router.timeouts`. A timeout is `factor` times an observed quantile, between a floor and a ceiling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_token_floor_s: float = Field(default=10.0, gt=0)
    """Seconds, the shortest wait for a first token. A needless timeout computes a prompt twice, and mostly while the
    pool is busy; calls that are merely slow by seconds must live."""
    first_token_cold_floor_s: float = Field(default=60.0, gt=0)
    """The same for a replica that has given no first token yet: kernels are compiled and caches filled by its first
    requests."""
    slowest_prefill_tokens_s: float = Field(default=500.0, gt=0)
    """Prompt tokens per second that any engine reaches. The prompt's time at this speed is added to both floors: long
    prompts are not cut before TTFTs have been observed."""
    first_token_ceiling_s: float = Field(default=300.0, gt=0)
    """Seconds, the longest wait for a first token, whatever was observed."""
    first_token_quantile: float = Field(default=0.95, gt=0, le=1)
    """The quantile of observed TTFTs that `factor` multiplies."""
    stall_floor_s: float = Field(default=5.0, gt=0)
    """Seconds, the shortest silence between two tokens that counts as a stall. KV-cache preemption, and prefill of long
    prompts in the same batch, silence a healthy stream for seconds."""
    stall_ceiling_s: float = Field(default=60.0, gt=0)
    """Seconds, the longest silence allowed, whatever was observed."""
    stall_quantile: float = Field(default=0.99, gt=0, le=1)
    """The quantile of observed silences that `factor` multiplies."""
    factor: float = Field(default=3.0, ge=1)
    """Multiple of the observed quantile: how much slower than the slowest usual case is too slow."""
    min_samples: int = Field(default=20, ge=1)
    """Observations below which floors alone count."""
    window_s: float = Field(default=300.0, gt=0)
    """Seconds after which an observation is forgotten; the newest 256 are kept at most."""


class StreamTimeouts:
    """Timeouts of one model, learned from its streams. Pure and single-threaded.

    TTFT is divided by prompt tokens plus a fixed cost: prefill takes time about in proportion to the prompt. To act on
    what is beyond a high quantile of the usual follows Dean & Barroso, "The Tail at Scale", CACM 2013. Waits that a
    timeout cut short are no observations of a TTFT; instead a run of timeouts without one timely first token doubles
    the timeout, as TCP's retransmission timer backs off (Karn & Partridge, SIGCOMM 1987; RFC 6298, section 5). So one
    dead replica among live ones changes nothing, and a pool that has become slower as a whole is not cut for ever.
    """

    def __init__(self, config: StreamTimeoutsConfig) -> None:
        self._config = config
        self._ttft = RecentQuantiles(max_age_s=config.window_s)
        self._gaps = RecentQuantiles(max_age_s=config.window_s)
        self._timeouts_in_a_row = 0

    def first_token_s(self, prompt_tokens: int, cold: bool, now: float) -> float:
        """Seconds from dispatch after which a first token is overdue.

        `cold`: the replica has given no first token since it started.
        """
        backed_off = 2.0 ** min(self._timeouts_in_a_row // _TIMEOUTS_PER_DOUBLING, _MAX_DOUBLINGS)
        return min(self._timely_s(prompt_tokens, cold, now) * backed_off, self._config.first_token_ceiling_s)

    def typical_first_token_s(self, prompt_tokens: int, min_samples: int, now: float) -> float | None:
        """Median seconds from dispatch to first token for such a prompt; None below `min_samples` observations."""
        if self._ttft.count(now) < min_samples:
            return None
        median = self._ttft.quantile(0.5, now)
        return None if median is None else median * (prompt_tokens + _FIXED_COST_TOKENS)

    def stall_s(self, now: float) -> float:
        """Seconds of silence after a token that count as a stall.

        Preemption in a full KV cache lasts as long: before acting, see whether the engine steps on.
        """
        config = self._config
        observed = self._usual(self._gaps, config.stall_quantile, now)
        return min(max(observed, config.stall_floor_s), config.stall_ceiling_s)

    def learn_first_token(self, ttft_s: float, prompt_tokens: int, now: float) -> None:
        """A first token came `ttft_s` seconds after dispatch, from a replica that is not cold."""
        if self._timeouts_in_a_row and ttft_s <= self._timely_s(prompt_tokens, False, now):
            self._timeouts_in_a_row = 0
        self._ttft.learn(ttft_s / (prompt_tokens + _FIXED_COST_TOKENS), now)

    def first_token_timed_out(self) -> None:
        """An attempt was given up because its first token was overdue."""
        self._timeouts_in_a_row += 1

    def learn_gap(self, gap_s: float, now: float) -> None:
        """The longest silence in a stream, that a token ended; not one that was cut as a stall."""
        self._gaps.learn(gap_s, now)

    def _timely_s(self, prompt_tokens: int, cold: bool, now: float) -> float:
        config = self._config
        floor_s = config.first_token_cold_floor_s if cold else config.first_token_floor_s
        floor_s += prompt_tokens / config.slowest_prefill_tokens_s
        usual_s = self._usual(self._ttft, config.first_token_quantile, now) * (prompt_tokens + _FIXED_COST_TOKENS)
        return min(max(usual_s, floor_s), config.first_token_ceiling_s)

    def _usual(self, observed: RecentQuantiles, quantile: float, now: float) -> float:
        """`factor` times the quantile; 0 while too few were observed."""
        if observed.count(now) < self._config.min_samples:
            return 0.0
        return self._config.factor * (observed.quantile(quantile, now) or 0.0)
