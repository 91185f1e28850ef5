"""The kept answers of one router replica: opens, resumes, hands over, and forgets them."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace

from serve_app.core.errors import (
    InvalidRequest,
    Refused,
    ServeAppError,
    StreamCancelled,
    StreamConflict,
    StreamNotFound,
    StreamTakenOver,
)
from serve_app.core.interfaces import Clock, KeptState
from serve_app.core.outcome import RequestOutcome
from serve_app.core.request import GenerationRequest
from serve_app.resilience.retention import KeepBounds, RetentionConfig
from serve_app.router.lifecycle import RouterLifecycle
from serve_app.router.streams.kept_answer import AnswerReader, KeptAnswer, state_of
from serve_app.router.streams.kept_search import Holders, KeptSearch
from serve_app.router.streams.running_stream import RunningStream
from serve_app.telemetry.logging import RequestLog
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.reasons import ResumedFrom
from serve_app.token_channel.event_log import EventLog
from serve_app.token_channel.handover import Claim, ClaimReply, HandedOver, Moved

logger = logging.getLogger(__name__)

SWEEP_S = 0.1
_FRUITLESS_PART = 16
"""Streams that ended without a token, as refused ones, may be this part of all that are kept."""
_MOVED_FOR_S = 2.0
"""Seconds for which a router says that it gave a stream up: longer than an answer travels."""


@dataclass(slots=True, eq=False)
class _Kept:
    answer: KeptAnswer
    live: RunningStream | None = None
    """What runs; None once it has ended."""


class KeptAnswers:
    """Implements the part of `core.interfaces.Router` that is about kept answers. Used on the router's event loop.

    Every stream has one owner, the router replica that runs it. Another one that is asked to resume it takes it over
    as in a failover: the owner gives it up first (docs/adr/0006-takeover-is-failover.md).
    """

    def __init__(
        self,
        router_id: str,
        lifecycle: RouterLifecycle,
        holders: Holders,
        config: RetentionConfig,
        reader_limit: int,
        metrics: ServeMetrics,
        log: RequestLog,
        clock: Clock = time.monotonic,
    ) -> None:
        """A reader is cut when more than `reader_limit` bytes come between two of its reads."""
        self._router_id = router_id
        self._lifecycle = lifecycle
        self._holders = holders
        self._elsewhere = KeptSearch(holders, config.claim_timeout_s, clock)
        self._reader_limit = reader_limit
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._running: dict[str, _Kept] = {}
        self._ended = KeepBounds(config)
        # Apart, or the refusals of an overload would push out answers.
        self._fruitless = KeepBounds(config.model_copy(update={"max_streams": config.max_streams // _FRUITLESS_PART}))
        self._given_up: dict[str, float] = {}
        self._claims: dict[tuple[str, str, bool], asyncio.Task[ResumedFrom]] = {}
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after what is kept."""
        self._sweeping = asyncio.create_task(self._sweep_always())

    async def close(self) -> None:
        """Stop looking after it."""
        tasks = [*self._claims.values(), *([self._sweeping] if self._sweeping is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- core.interfaces.Router

    def open(self, request: GenerationRequest) -> AnswerReader:
        """See `core.interfaces.Router.open`, for requests with `retention`."""
        key = _key(request)
        known = self._kept.get(key)
        if known is not None and not _was_refused(known.answer):
            raise StreamConflict("A stream of that name exists already; resume it.")
        if request.sampling.n != 1:
            raise InvalidRequest("A stream that can be resumed has one choice.", "n")
        answer = KeptAnswer(request, self._clock())
        reader = self._reader(answer, 0)
        self._run(answer)
        return reader

    async def resume(self, key: str, tenant: str, from_token: int = 0) -> AnswerReader:
        """See `core.interfaces.Router.resume`."""
        if from_token < 0:
            raise InvalidRequest("The offset is negative.", "offset", "invalid_value")
        place, kept = await self._find(key, tenant)
        answer = kept.answer
        if _was_refused(answer):  # whoever repeats the request may try again
            raise StreamNotFound("There is no such stream.")
        if answer.ended and from_token > answer.log.position:
            message = f"The stream has {answer.log.tokens} tokens, fewer than {from_token}."
            raise InvalidRequest(message, "offset", "invalid_value")
        self._metrics.resumed(place)
        if kept.live is not None:
            kept.live.metrics.resumes += 1
        return self._reader(answer, from_token)

    async def look_up(self, key: str, tenant: str) -> KeptState:
        """See `core.interfaces.Router.look_up`."""
        kept = self._kept.get(key)
        if kept is None:
            _, found = await self._search(Claim(key, tenant, self._router_id, take=False))
            if found is None:
                raise StreamNotFound("There is no such stream.")
            return state_of(found.request, EventLog.of(found.parts), found.ended, found.error)
        _check_tenant(kept, tenant)
        return self._state(kept)

    async def cancel(self, key: str, tenant: str, *, forget: bool = False) -> KeptState:
        """See `core.interfaces.Router.cancel`."""
        _, kept = await self._find(key, tenant, go_on=False)
        if kept.live is not None:
            kept.live.end(StreamCancelled("The stream was cancelled."))
        state = self._state(kept)
        if forget:
            self._forget(key)
            # Engines may have it too, and nobody shall find it again.
            await self._holders.ask_engines(Claim(key, tenant, self._router_id))
        return state

    # --- what other routers ask

    def answer(self, claim: Claim) -> ClaimReply:
        """Give the stream up, or tell how it stands; its part here has ended when this returns."""
        if claim.router_id == self._router_id:
            return None
        kept = self._kept.get(claim.key)
        if kept is None:
            return Moved() if claim.key in self._given_up else None
        answer = kept.answer
        if answer.request.tenant != claim.tenant:
            return None
        if kept.live is not None:
            kept.live.flush()
        part = HandedOver(self._as_it_stands(kept), answer.log.parts(), answer.log.position, answer.ended, answer.error)
        if claim.take:
            self._forget(claim.key)
            self._given_up[claim.key] = self._clock()
            for reader in answer.readers if claim.cancels else ():
                reader.fail(StreamCancelled("The stream was cancelled."))
            if kept.live is not None:
                kept.live.end(StreamTakenOver("The stream was resumed elsewhere, and goes on there."))
        return part

    # --- time

    def sweep(self, now: float) -> None:
        """Act on what is overdue at clock reading `now` (seconds)."""
        for kept in list(self._running.values()):
            answer = kept.answer
            for reader in list(answer.readers):
                reader.wake_if_idle(now)
            retention = answer.request.retention
            grace_s = None if retention is None else retention.grace_s
            if answer.unread_since is None or grace_s is None or kept.live is None:
                continue
            if now - answer.unread_since >= grace_s:
                kept.live.end(StreamCancelled(f"Nobody read the stream for {grace_s:g} s."))
        for key in (*self._ended.expire(now), *self._fruitless.expire(now)):
            self._kept.pop(key, None)
        for key, at in list(self._given_up.items()):
            if now - at >= _MOVED_FOR_S:
                del self._given_up[key]

    def publish_metrics(self) -> None:
        """Bring the gauges up to date; called before they are read."""
        running = sum(kept.answer.bytes for kept in self._running.values())
        self._metrics.publish_retained(len(self._kept), self._ended.bytes + self._fruitless.bytes + running)

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.sweep(self._clock())
            except Exception:
                logger.exception("looking after kept answers failed")

    # --- running and keeping

    def _run(self, answer: KeptAnswer, taken_from: ResumedFrom | None = None) -> None:
        """Offer the stream's request, or what is left of it."""
        key = _key(answer.request)
        self._forget(key)
        self._given_up.pop(key, None)
        self._kept[key] = self._running[key] = kept = _Kept(answer)
        answer.on_ended = lambda _: self._has_ended(key, kept)
        try:
            live = self._lifecycle.open(answer.request, answer, taken_from)
        except BaseException:
            self._forget(key)
            raise
        if not answer.ended:  # it may have been refused at once
            kept.live = live
            answer.queue_position = lambda: None if live.ended else live.queue_position

    def _has_ended(self, key: str, kept: _Kept) -> None:
        kept.live = None  # what ran is done: only the answer is kept, and counted
        if isinstance(kept.answer.error, StreamTakenOver):  # an engine said so: whoever took it has it all
            if self._kept.get(key) is kept:
                self._forget(key)
        elif self._kept.get(key) is kept:
            del self._running[key]
            answer = kept.answer
            fruitless = answer.error is not None and not answer.log.begun
            ended = self._fruitless if fruitless else self._ended
            ended.add(key, answer.bytes, self._clock())

    def _forget(self, key: str) -> None:
        self._kept.pop(key, None)
        self._running.pop(key, None)
        self._ended.remove(key)
        self._fruitless.remove(key)

    def _reader(self, answer: KeptAnswer, from_token: int) -> AnswerReader:
        return AnswerReader(answer, from_token, self._reader_limit, self._clock)

    @staticmethod
    def _state(kept: _Kept) -> KeptState:
        if kept.live is not None:
            kept.live.flush()
        return kept.answer.state

    def _as_it_stands(self, kept: _Kept) -> GenerationRequest:
        request, live = kept.answer.request, kept.live
        if live is None or live.deadline is None:
            return request
        return replace(request, timeout_s=max(0.0, live.deadline - self._clock()))

    # --- finding

    async def _find(self, key: str, tenant: str, go_on: bool = True) -> tuple[ResumedFrom, _Kept]:
        """The stream, which is here then; where it was. What had not ended goes on, or is cancelled."""
        place = ResumedFrom.HERE
        if key not in self._kept:
            name = (key, tenant, go_on)
            claim = self._claims.get(name)
            if claim is None:
                claim = self._claims[name] = asyncio.create_task(self._claim(key, tenant, go_on))
                claim.add_done_callback(lambda _: self._claims.pop(name, None))
            # What others give up must arrive, even if who asked for it has left.
            place = await asyncio.shield(claim)
        kept = self._kept.get(key)
        if kept is None and place is not ResumedFrom.HERE:  # a third router has taken it already
            raise StreamTakenOver("The stream was resumed elsewhere, and goes on there.")
        if kept is None:
            raise StreamNotFound("There is no such stream.")
        _check_tenant(kept, tenant)
        return place, kept

    async def _claim(self, key: str, tenant: str, go_on: bool) -> ResumedFrom:
        place, found = await self._search(Claim(key, tenant, self._router_id, cancels=not go_on))
        if found is None or key in self._kept:
            return ResumedFrom.HERE
        answer = KeptAnswer(found.request, self._clock(), EventLog.of(found.parts))
        if not found.ended and go_on:
            self._run(answer, place)
            return place
        error = found.error
        if not found.ended:
            error = StreamCancelled("The stream was cancelled.")
        if not found.ended or not found.settled:
            self._settle(found.request, answer, error, place)
        self._forget(key)
        self._kept[key] = self._running[key] = kept = _Kept(answer)
        answer.on_ended = lambda _: self._has_ended(key, kept)
        answer.end(error)
        return place

    async def _search(self, claim: Claim) -> tuple[ResumedFrom, HandedOver | None]:
        return await self._elsewhere.find(claim, lambda: claim.key in self._kept)

    def _settle(
        self, request: GenerationRequest, answer: KeptAnswer, error: ServeAppError | None, place: ResumedFrom
    ) -> None:
        """Count a stream that had ended uncounted, or is not to go on, when it was taken over."""
        now = self._clock()
        metrics = self._lifecycle.metrics_of(request, now)
        metrics.taken_over(place, answer.prompt_tokens, answer.log.tokens, now)
        outcome = RequestOutcome.COMPLETED if error is None else error.outcome
        metrics.settled(outcome, now, output_tokens=answer.log.tokens)
        self._log.settled(request, metrics, outcome, None, error)


def _key(request: GenerationRequest) -> str:
    assert request.retention is not None
    return request.retention.key


def _check_tenant(kept: _Kept, tenant: str) -> None:
    if kept.answer.request.tenant != tenant:
        raise StreamNotFound("There is no such stream.")


def _was_refused(answer: KeptAnswer) -> bool:
    """Whether nothing of it was ever computed, and a repeat may have more luck."""
    return isinstance(answer.error, Refused) and not answer.log.begun
