"""Says no, and when to come back: what an offer that is not admitted is told."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.core.errors import DeadlineUnattainable, NoEngineAvailable, QueueFull, prompt_too_long
from serve_app.core.interfaces import Rng
from serve_app.core.request import Priority
from serve_app.core.retry_advice import NO_ENGINE_S
from serve_app.resilience.admission_queue import AdmissionQueue
from serve_app.resilience.drain_rate import DrainRate
from serve_app.resilience.first_token_model import FirstTokenModel
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.engine_pool import EngineView
from serve_app.router.decisions.messages import Fail, Offer
from serve_app.telemetry.reasons import RefusalReason

_WAIT_SHARE = 0.25
"""Share of the objective for the first token that the wait may take by estimate. The rest is for what the estimate
leaves out: the lengths of what runs, and bursts."""


class Refusals:
    """Of one model. Pure; clock readings are in seconds."""

    def __init__(
        self,
        config: DecisionsConfig,
        queue: AdmissionQueue,
        drain: DrainRate,
        rng: Rng,
        first_token: FirstTokenModel,
    ) -> None:
        self._first_token = first_token
        self._config = config
        self._queue = queue
        self._drain = drain
        self._rng = rng

    @staticmethod
    def too_long(offer: Offer, max_model_len: int | None) -> Fail | None:
        """The end of an offer whose prompt fits no replica's context window, whatever else holds."""
        if max_model_len is None or offer.least_prompt_tokens < max_model_len:
            return None
        return Fail(offer.stream_id, prompt_too_long(max_model_len, f"at least {offer.least_prompt_tokens}"))

    def hopeless(self, offer: Offer, engines: Sequence[EngineView], now: float) -> Fail | None:
        """The refusal of an offer that would be served too late to be of use, at the present drain rate.

        While no engine is ready (`engines` is empty) nothing is known of the wait, and only the deadline itself counts.
        """
        wait_s = own_s = 0.0
        if engines:
            backlog = min(view.awaiting_tokens for view in engines)
            wait_s = self._drain.wait_s(self._queue.tokens_ahead(offer.priority, offer.tenant), now) or 0.0
            wait_s += backlog * self._first_token.seconds_per_token
            own_s = self._first_token.expected_s(offer.prompt_tokens)
        if offer.deadline is not None and now + wait_s + own_s >= offer.deadline:
            message = f"Its first token would come in about {wait_s + own_s:.1f} s, which its deadline does not allow."
            return self._too_late(offer, RefusalReason.DEADLINE, message, now)
        if wait_s <= 0.0:
            return None
        longest_s = self._config.admission.queue_timeout_s
        objective_s = self._config.first_token_objectives_s.of(offer.priority)
        limit_s = longest_s
        if objective_s is not None:
            # A tenant that the others do not wait for is refused only when it would come too late.
            fair = self._queue.is_below_share(offer.priority, offer.tenant)
            limit_s = min(longest_s, objective_s * (1.0 if fair else _WAIT_SHARE))
            if not fair and own_s < objective_s:
                limit_s = min(limit_s, objective_s - own_s)
        if wait_s > limit_s:
            message = f"It would wait for about {wait_s:.1f} s; {limit_s:.1f} s are allowed."
            return self._too_late(offer, RefusalReason.OBJECTIVE, message, now)
        return None

    def queue_full(self, priority: Priority, message: str, now: float) -> QueueFull:
        """No place in the band."""
        return QueueFull(message, self._retry_after_s(priority, now))

    def no_engine(self, message: str) -> NoEngineAvailable:
        """No replica can serve."""
        return NoEngineAvailable(message, self._rng.uniform(*NO_ENGINE_S))

    def _too_late(self, offer: Offer, reason: RefusalReason, message: str, now: float) -> Fail:
        error = DeadlineUnattainable(message, self._retry_after_s(offer.priority, now))
        return Fail(offer.stream_id, error, reason)

    def _retry_after_s(self, priority: Priority, now: float) -> float:
        return self._drain.retry_after_s(self._queue.tokens_ahead(priority), now, self._rng)
