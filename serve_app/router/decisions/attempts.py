"""What runs at the replicas of one model: what each attempt holds, and what is learned from it."""

from __future__ import annotations

from serve_app.core.interfaces import Rng
from serve_app.resilience.drain_rate import DrainRate
from serve_app.resilience.first_token_model import FirstTokenModel
from serve_app.resilience.retry_budget import RetryBudget
from serve_app.resilience.stream_timeouts import StreamTimeouts
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.engine_pool import EnginePool, EngineView
from serve_app.router.decisions.replica_policies import AttemptResult, ReplicaPolicies
from serve_app.router.decisions.stream_ledger import StreamLedger


class Attempts:
    """Each attempt holds a lease of its replica, a permit of the replica's policies and, when it repeats work, a part
    of the retry budget, from `start` to `release`. Pure and single-threaded; `now` (seconds) never runs back."""

    def __init__(self, config: DecisionsConfig, drain: DrainRate, rng: Rng) -> None:
        self._config = config
        self._drain = drain
        self.policies = ReplicaPolicies(config.replicas, rng)
        self.pool = EnginePool(self.policies.forget)
        self.budget = RetryBudget(config.retry.budget)
        self.timeouts = StreamTimeouts(config.timeouts)
        self.first_token_model = FirstTokenModel()
        self._with_room: list[EngineView] | None = None

    def candidates(
        self,
        now: float,
        stream: StreamLedger | None = None,
        avoid: str | None = None,
        ready: list[EngineView] | None = None,
    ) -> list[EngineView]:
        """Replicas that may be sent `stream` now (None: any small one); `avoid` only when there is no other. `ready`:
        `pool.ready()`, if that is known."""
        allows = self.policies.allows
        choices = 1 if stream is None else stream.offer.choices
        usable = [
            view
            for view in (self.pool.ready() if ready is None else ready)
            if not view.refused and self._may_prefill(view) and allows(view.engine_id, view.in_flight, choices, now)
        ]
        if stream is not None and stream.is_choosy:
            usable = [view for view in usable if stream.may_use(view.group)]
        if avoid is None or len(usable) < 2:
            return usable
        return [view for view in usable if view.engine_id != avoid]

    def _may_prefill(self, view: EngineView) -> bool:
        """Whether its queue of prompts is short. One that waits here waits in fair order, and may go elsewhere."""
        if view.awaiting_tokens == 0:
            return True
        allowed_s = self._config.max_prefill_backlog_s / max(1, view.status.routers)
        return view.awaiting_tokens * self.first_token_model.seconds_per_token < allowed_s

    def accepted(self, stream: StreamLedger, prompt_tokens: int) -> None:
        """The replica took the stream's present attempt, and counted the prompt."""
        if stream.engine_id is None:
            return
        stream.accepted = True
        stream.first_dispatched_at = None
        correction = prompt_tokens - stream.prompt_tokens
        stream.prompt_tokens = prompt_tokens
        stream.leased_tokens += correction
        self.pool.adjust(stream.engine_id, correction)
        self.budget.in_flight(correction)

    def received(self, stream: StreamLedger, count: int, now: float) -> bool:
        """`count` output tokens came; whether they are the attempt's first. Called for every token: cheap."""
        engine_id = stream.engine_id
        if engine_id is None or stream.permit is None:
            return False
        first = stream.first_token_at is None
        if first:
            self._first_token(stream, now)
        else:
            gap = now - stream.last_token_at
            if gap > stream.longest_gap_s:
                stream.longest_gap_s = gap
        stream.last_token_at = now
        stream.output_tokens += count
        stream.begun = True
        # A stream that outlives its expectation must not make its replica look emptier than without it.
        expected = min(count, stream.output_ahead - 1)
        if expected:
            stream.output_ahead -= expected
            self.pool.adjust(engine_id, -expected)
        self._drain.departed(count, now)
        return first

    def start(self, stream: StreamLedger, engine: EngineView, now: float) -> None:
        """Count a new attempt of the stream at the replica."""
        engine_id = engine.engine_id
        stream.engine_id = engine_id
        stream.dispatches += 1
        stream.attempt = stream.dispatches
        stream.permit = self.policies.dispatched(
            engine_id, now, stream.prompt_tokens + stream.output_tokens, stream.offer.choices
        )
        stream.output_ahead = stream.remaining_output
        stream.leased_tokens = stream.prompt_tokens + stream.output_ahead
        stream.awaited_tokens = stream.prompt_tokens + stream.output_tokens
        engine.awaiting_tokens += stream.awaited_tokens
        stream.tokens_before_first = engine.awaiting_tokens
        stream.was_computed = stream.was_computed or stream.accepted
        stream.accepted = False
        stream.in_line = False
        stream.first_token_at = None
        stream.tokens_before = stream.output_tokens
        stream.dispatched_at = stream.check_at = now
        if stream.first_dispatched_at is None:
            stream.first_dispatched_at = now
        self._with_room = None
        self.pool.lease(engine_id, stream.leased_tokens, stream.offer.choices)
        self.budget.in_flight(stream.leased_tokens)

    def _first_token(self, stream: StreamLedger, now: float) -> None:
        assert stream.permit is not None
        assert stream.engine_id is not None
        stream.first_token_at = now
        if stream.begun:
            self.give_back_budget(stream)  # what it repeats is computed
        ttft_s = now - stream.dispatched_at
        computed = stream.prompt_tokens + stream.output_tokens
        view = self.pool.view(stream.engine_id)
        if view is not None:
            if stream.group is None:
                stream.group = view.group
            self._no_longer_awaited(stream, view)
            if view.warm:
                self.timeouts.learn_first_token(ttft_s, computed, now)
                self.first_token_model.learn(stream.tokens_before_first, ttft_s)
        self.policies.first_token(stream.permit, ttft_s, computed, now)
        self._drain.departed(computed, now)

    @staticmethod
    def _no_longer_awaited(stream: StreamLedger, view: EngineView) -> None:
        view.awaiting_tokens -= stream.awaited_tokens
        stream.awaited_tokens = 0

    def release(self, stream: StreamLedger, result: AttemptResult, now: float) -> None:
        """The present attempt is over: give back what it held."""
        assert stream.engine_id is not None
        assert stream.permit is not None
        self.policies.settled(stream.permit, result, now, stream.tpot_s)
        if stream.longest_gap_s > 0.0:  # the longest of each attempt is enough to learn what silence is usual
            self.timeouts.learn_gap(stream.longest_gap_s, now)
            stream.longest_gap_s = 0.0
        self.budget.in_flight(-stream.leased_tokens)
        self.give_back_budget(stream)
        self._with_room = None  # this made room
        # From here on the stream has no attempt: a second release fails its assertion instead of counting twice.
        engine_id, stream.engine_id, stream.permit = stream.engine_id, None, None
        if (view := self.pool.view(engine_id)) is not None:
            self._no_longer_awaited(stream, view)
        # Not `leased_tokens`: the tokens that have come are no longer outstanding.
        self.pool.release(engine_id, stream.prompt_tokens + stream.output_ahead, stream.offer.choices)

    def take_budget(self, stream: StreamLedger) -> bool:
        """Reserve what another attempt repeats; False when it must wait."""
        tokens = stream.repeated_tokens
        if not self.budget.try_take(tokens):
            return False
        stream.budget_tokens = tokens
        return True

    def give_back_budget(self, stream: StreamLedger) -> None:
        """Give back what the stream holds of the retry budget, if anything."""
        if stream.budget_tokens is not None:
            self.budget.give_back(stream.budget_tokens)
            stream.budget_tokens = None

    def another_has_room(self, stream: StreamLedger, engine_id: str, now: float) -> bool:
        """Whether a replica beside this one may be sent the stream now.

        Where a whole pool stands still, this is asked for every stream: it is looked up once, until `look_again`, or an
        attempt starts or ends.
        """
        if self._with_room is None:
            self._with_room = self.candidates(now)
        return any(view.engine_id != engine_id and stream.may_use(view.group) for view in self._with_room)

    def waits_for_its_group(self, stream: StreamLedger, now: float) -> bool:
        """Whether the group that it began at has no room, while those of others may have."""
        return stream.group is not None and self.pool.has_several_groups and not self.candidates(now, stream)

    def look_again(self) -> None:
        """Time has passed, or replicas have changed."""
        self._with_room = None
