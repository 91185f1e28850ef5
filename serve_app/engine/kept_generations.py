"""Generations of streams that can be resumed: they outlive their router for a while, and are found by the stream's key.

Pure bookkeeping: clock readings (`now`, seconds, never running back) are handed in, and what has to be aborted is
returned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from serve_app.core.errors import ServeAppError, StreamCancelled
from serve_app.core.events import Accepted, Failed
from serve_app.core.failures import error_of
from serve_app.core.request import GenerationRequest, Retention
from serve_app.engine.sent_log import GenerationKey
from serve_app.resilience.retention import KeepBounds, RetentionConfig
from serve_app.token_channel.event_log import EventLog
from serve_app.token_channel.event_memory import PART_BYTES, request_bytes
from serve_app.token_channel.handover import Claim, ClaimReply, HandedOver, Moved
from serve_app.token_channel.packed_events import PackedEvents, pack

_MOVED_FOR_S = 2.0
"""Seconds for which an engine says that it gave a stream up: longer than an answer travels."""


class SignsOfLife(Protocol):
    """What is known of routers; the token channel's sender implements it."""

    def mark(self, router_id: str) -> int | None:
        """A mark for `acknowledged_since`, set now; None when the router is unknown."""

    def acknowledged_since(self, router_id: str, mark: int) -> bool:
        """Whether a router certainly lived on after `mark` was set, and has taken all that was sent before."""


@dataclass(slots=True, eq=False)
class _Generation:
    request: GenerationRequest
    retention: Retention
    key: GenerationKey
    events: EventLog
    """All of this attempt, growing."""
    started_at: float
    left_at: float | None = None
    """Since when its call is cancelled, or its router silent."""
    mark: int | None = None
    """Set when it was left, or ended: tells whether its router lived on."""
    call_cancelled: bool = False
    ended: bool = False
    whole: tuple[tuple[bytes, ...], int] | None = None
    """All events of the answer in parts, and the position by their end; once it has ended."""
    error: ServeAppError | None = None
    settled: bool = False
    """Its router lived on after the end, and so has counted it."""


class KeptGenerations:
    """What one engine replica holds for streams with `retention`. Single-threaded."""

    def __init__(self, config: RetentionConfig, routers: SignsOfLife) -> None:
        self._routers = routers
        self._held: dict[str, _Generation] = {}
        self._key_of: dict[GenerationKey, str] = {}
        self._ended = KeepBounds(config)
        self._given_up: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._held) + len(self._given_up)

    def begin(
        self, request: GenerationRequest, key: GenerationKey, events: EventLog, now: float
    ) -> GenerationKey | None:
        """A generation starts, whose `events` will grow. Returns an older one of the same stream, to be aborted."""
        assert request.retention is not None
        name = request.retention.key
        older = self._drop(name)
        self._given_up.pop(name, None)
        self._held[name] = _Generation(request, request.retention, key, events, now)
        self._key_of[key] = name
        return older

    def left(self, key: GenerationKey, now: float) -> bool:
        """The call of a running generation was cancelled. Whether it goes on: `sweep` will tell its end."""
        generation = self._of(key)
        if generation is None:
            return False
        generation.call_cancelled = True
        self._leave(generation, now)
        return True

    def router_silent(self, key: GenerationKey, now: float) -> bool:
        """The generation's router is silent. Whether it goes on all the same."""
        generation = self._of(key)
        if generation is None:
            return False
        self._leave(generation, now)
        return True

    def unwanted(self, key: GenerationKey) -> None:
        """Its router does not want it any more: nothing of it is kept. Unknown ones are passed over."""
        if (name := self._key_of.get(key)) is not None:
            self._drop(name)

    def end(self, key: GenerationKey, now: float) -> None:
        """The generation is over. Unknown ones are passed over."""
        generation = self._of(key)
        if generation is None or generation.ended:
            return
        if (failed := generation.events.failed) is not None:
            if generation.left_at is None:  # its router knows, and will go on elsewhere if that can be done
                self.unwanted(key)
                return
            generation.error = error_of(failed)
        generation.ended = True
        if generation.left_at is None:
            generation.mark = self._routers.mark(key[0])
        generation.whole = _whole(generation)
        generation.events = EventLog()
        generation.retention = replace(generation.retention, prior=())
        size = sum(PART_BYTES + len(part) for part in generation.whole[0]) + request_bytes(generation.request)
        self._ended.add(generation.retention.key, size, now)
        self._expire(now)

    def sweep(self, now: float) -> list[GenerationKey]:
        """What is to be aborted by now: ended by a router that lives, or by nobody for the grace time."""
        aborted: list[GenerationKey] = []
        for generation in list(self._held.values()):
            if generation.ended:
                self._settle(generation)
                continue
            if generation.left_at is None:
                continue
            if self._router_lived_on(generation):
                if generation.call_cancelled:
                    self.unwanted(generation.key)
                    aborted.append(generation.key)
                else:
                    generation.left_at = None  # it is back
                continue
            grace_s = generation.retention.grace_s
            if grace_s is not None and now - generation.left_at >= grace_s:
                self.end(generation.key, now)
                generation.error = StreamCancelled(f"Nobody read the stream for {grace_s:g} s.")
                aborted.append(generation.key)
        self._expire(now)
        for name, at in list(self._given_up.items()):
            if now - at >= _MOVED_FOR_S:
                del self._given_up[name]
        return aborted

    def claim(self, claim: Claim, now: float) -> tuple[ClaimReply, GenerationKey | None]:
        """The answer, and the generation that is to be aborted, if one is given up that runs."""
        generation = self._held.get(claim.key)
        if generation is None:
            return (Moved() if claim.key in self._given_up else None), None
        if generation.request.tenant != claim.tenant or self._was_cancelled(generation):
            return None, None
        if generation.ended:
            self._settle(generation)
        request, retention = generation.request, generation.retention
        timeout_s = request.timeout_s
        if timeout_s is not None:
            timeout_s = max(0.0, timeout_s - (now - generation.started_at))
        whole = replace(request, continuation=None, retention=replace(retention, prior=()), timeout_s=timeout_s)
        parts, position = generation.whole or _whole(generation)
        answer = HandedOver(whole, parts, position, generation.ended, generation.error, generation.settled)
        if not claim.take:
            return answer, None
        self._given_up[claim.key] = now
        return answer, self._drop(claim.key)

    def _leave(self, generation: _Generation, now: float) -> None:
        if generation.left_at is None:
            generation.left_at = now
        generation.mark = self._routers.mark(generation.key[0])

    def _router_lived_on(self, generation: _Generation) -> bool:
        """Whether its router certainly lived on after it was left, or had ended."""
        return generation.mark is not None and self._routers.acknowledged_since(generation.key[0], generation.mark)

    def _settle(self, generation: _Generation) -> None:
        if generation.left_at is None and self._router_lived_on(generation):
            generation.settled = True

    def _was_cancelled(self, generation: _Generation) -> bool:
        """Whether its router ended it, which the next sweep will see."""
        return generation.call_cancelled and not generation.ended and self._router_lived_on(generation)

    def _of(self, key: GenerationKey) -> _Generation | None:
        name = self._key_of.get(key)
        return None if name is None else self._held[name]

    def _drop(self, name: str) -> GenerationKey | None:
        """Forget a stream; its generation, if it runs."""
        generation = self._held.pop(name, None)
        if generation is None:
            return None
        del self._key_of[generation.key]
        self._ended.remove(name)
        return None if generation.ended else generation.key

    def _expire(self, now: float) -> None:
        for name in self._ended.expire(now):
            self._drop(name)


def _whole(generation: _Generation) -> tuple[tuple[bytes, ...], int]:
    """All events of the answer in parts, those before a failover included, and the position by their end."""
    prior, log = generation.retention.prior, generation.events
    told_before = (Accepted, Failed) if prior else (Failed,)
    parts = list(log.parts())
    for place in {0, len(parts) - 1} if parts else ():  # such events are the first and the last
        packed = PackedEvents.of(parts[place])
        if any(isinstance(event, told_before) for event in packed.others):
            parts[place] = pack([event for event in packed.events() if not isinstance(event, told_before)])
    ends = (PackedEvents.of(part).position for part in reversed(prior))
    return (*prior, *parts), log.position or next(filter(None, ends), 0)
