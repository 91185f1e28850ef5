"""One stream as the router's decision core sees it, from its offer until it ended."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.core.errors import ServeAppError
from serve_app.resilience.waiting import OUTPUT_WEIGHT, Waiting
from serve_app.router.decisions.messages import Offer
from serve_app.router.decisions.replica_policies import Permit


@dataclass(slots=True, eq=False, kw_only=True)
class RunningAttempt:
    """One dispatch to a replica; none while `engine_id` is None. Times are clock readings in seconds."""

    prompt_tokens: int
    """An estimate, until the replica has counted."""
    attempt: int = 0
    engine_id: str | None = None
    permit: Permit | None = None
    leased_tokens: int = 0
    """What it counts for in the retry budget: prompt and expected output."""
    output_ahead: int = 0
    """Output tokens that are still expected of this attempt, at least one."""
    dispatched_at: float = 0.0
    accepted: bool = False
    awaited_tokens: int = 0
    """Prompt tokens of its own that its replica has to compute before the first token."""
    tokens_before_first: int = 0
    """The same with those that were queued there before it."""
    first_token_at: float | None = None
    last_token_at: float = 0.0
    tokens_before: int = 0
    """Output tokens that the stream had when this attempt began."""
    longest_gap_s: float = 0.0
    check_at: float = 0.0
    """Nothing can be overdue before."""


@dataclass(slots=True, eq=False)
class StreamLedger(RunningAttempt):
    """What the core books of a stream; waiting while it has no attempt. Times are clock readings in seconds.

    Only the core writes it. It is the one place where the tokens of a stream are counted: the shell asks
    `RouterCore.output_tokens` for them.

        ledger = StreamLedger(offer, expected_output=256, waiting_since=now, prompt_tokens=offer.prompt_tokens)
        attempts.start(ledger, engine, now)  # it has a lease, a permit and an attempt number
        attempts.received(ledger, count=1, now=now)
        attempts.release(ledger, AttemptResult.SUCCEEDED, now)
    """

    offer: Offer
    expected_output: int
    """Output tokens expected over the whole stream."""
    waiting_since: float
    """Since when nothing is computed for it; refused and unanswered dispatches go on counting."""
    in_line: bool = False
    failed: bool = False
    charged: float | None = None
    """Weighted tokens that its tenant was charged with at the first dispatch."""

    # over all attempts
    dispatches: int = 0
    """Attempts so far, and the number of the newest."""
    output_tokens: int = 0
    begun: bool = False
    """Output was received, if only text that counts no token: another attempt goes on with it, or there is none."""
    group: str | None = None
    """Deployment that it began at: only that one's replicas can go on with it. None before, and where another router
    began it."""
    first_dispatched_at: float | None = None
    """The first of the dispatches that no replica has answered."""
    retries: int = 0
    losses: int = 0
    was_computed: bool = False
    """A replica took it before the present attempt."""
    avoid: str | None = None
    """The replica that it failed at last."""
    last_error: ServeAppError | None = None
    """Why it was taken from its last replica; what the client is told if nobody else takes it."""

    # waiting for another try
    not_before: float = 0.0
    budget_tokens: int | None = None
    """Taken from the retry budget for the present repeat."""

    # a second attempt beside the present one
    wanted_at: float | None = None
    """Before when its first token is wanted; known where requests are hedged."""
    hedge: StreamLedger | None = None
    """What the second attempt holds, and its part of the retry budget; for the attempt's fields only."""
    hedged: bool = False
    """A second attempt was sent: there is no other."""

    @property
    def stream_id(self) -> int:
        """Number of the stream in its router."""
        return self.offer.stream_id

    def exchange(self, other: StreamLedger) -> None:
        """Let each of the two have the other's attempt."""
        for name in RunningAttempt.__slots__:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs)
            setattr(other, name, mine)

    @property
    def remaining_output(self) -> int:
        """Output tokens still expected, at least one."""
        return max(1, self.expected_output - self.output_tokens)

    @property
    def repeated_tokens(self) -> int:
        """Tokens that another attempt computes a second time: all of a retry, and what a replay starts from."""
        return self.prompt_tokens + (self.output_tokens if self.begun else self.expected_output)

    @property
    def real_cost(self) -> float:
        """Weighted tokens that it really used: nothing if no replica took it."""
        computed = self.accepted or self.was_computed or self.begun
        return self.prompt_tokens + OUTPUT_WEIGHT * self.output_tokens if computed else 0.0

    @property
    def is_choosy(self) -> bool:
        """Whether not every group of the pool can serve it now."""
        return self.group is not None or self.offer.groups is not None

    def may_use(self, group: str) -> bool:
        """Whether the replicas of this group can serve it now."""
        groups = self.offer.groups
        return (self.group is None or self.group == group) and (groups is None or group in groups)

    def is_too_late(self, now: float) -> bool:
        """Whether its deadline is over at clock reading `now`."""
        deadline = self.offer.deadline
        return deadline is not None and now >= deadline

    @property
    def tpot_s(self) -> float | None:
        """Mean seconds per output token of a choice of the present attempt after its first; None below two."""
        tokens = self.output_tokens - self.tokens_before
        if self.first_token_at is None or tokens < 2 or self.last_token_at <= self.first_token_at:
            return None
        return (self.last_token_at - self.first_token_at) / max(1.0, tokens / self.offer.choices - 1)

    def as_waiting(self) -> Waiting:
        """What the queue holds of it."""
        offer = self.offer
        return Waiting(
            offer.stream_id,
            offer.tenant,
            offer.priority,
            self.prompt_tokens,
            self.remaining_output,
            self.waiting_since,
        )
