"""Takes the engines' events: tells which of them count, puts them in order, and lets the core and the reader know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from serve_app.core.events import Accepted, Failed, Finished, StreamEvent, TokenDelta
from serve_app.core.failures import error_of
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import AttemptFailed, EngineAccepted, Happened, HedgeWon, RoomMade
from serve_app.router.streams.coarse_clock import CoarseClock
from serve_app.router.streams.running_stream import RunningStream
from serve_app.router.streams.second_attempt import SecondAttempt
from serve_app.router.token_estimate import TokenEstimate
from serve_app.token_channel.codec import WireEvent


class EventIntake:
    """The router's hot path: `take` runs once per engine step, and does what it can once for the whole batch.

    Used from one event loop.
    """

    def __init__(
        self,
        streams: Mapping[int, RunningStream],
        core: RouterCore,
        estimates: Mapping[str, TokenEstimate],
        clock: CoarseClock,
        tell: Callable[[Happened], None],
    ) -> None:
        """`streams` are those that have not ended. What the core has to decide on goes to `tell`."""
        self._streams = streams
        self._core = core
        self._estimates = estimates
        self._clock = clock
        self._tell = tell
        self._room_made = False
        self._with_events: list[RunningStream] = []
        self._with_gap: list[RunningStream] = []

    def take(self, events: Iterable[WireEvent]) -> list[RunningStream]:
        """Take one batch, in order; the streams that miss events now, which are to be read again.

        Events of older attempts, of an ended stream and repeated ones are void. Early ones wait until the gap before
        them is filled.
        """
        streams = self._streams
        for stream_id, attempt, seq, event in events:
            stream = streams.get(stream_id)
            if stream is None:
                continue
            if attempt == stream.attempt and seq == stream.next_seq:
                stream.next_seq = seq + 1
                self._take(stream, event)
                if stream.early:
                    self._take_early(stream)
            else:
                self._take_apart(stream, attempt, seq, event)
        if self._with_events:
            waiting, self._with_events = self._with_events, []
            for stream in waiting:
                stream.flush()
        if self._room_made:
            self._room_made = False
            self._tell(RoomMade())
        if not self._with_gap:
            return []
        with_gap, self._with_gap = self._with_gap, []
        return with_gap

    def _take(self, stream: RunningStream, event: StreamEvent) -> None:
        """The stream's next event."""
        kind = type(event)
        size = 0
        if kind is TokenDelta:
            assert isinstance(event, TokenDelta)
            if stream.record is not None:
                stream.record.record(event)
            now = self._clock.now
            stream.metrics.on_tokens(event.count, now)
            if self._core.tokens_received(stream.stream_id, event.count, now):
                self._room_made = True
            size = len(event.text)
        elif kind is Accepted:
            assert isinstance(event, Accepted)
            if self._accepted(stream, event):
                return
        elif kind is Failed:
            assert isinstance(event, Failed)
            self._tell(AttemptFailed(stream.stream_id, stream.attempt, error_of(event)))
            return
        else:
            assert isinstance(event, Finished)
            if stream.finished(event):
                self._with_events.append(stream)
            return
        if stream.push(event, size):
            self._with_events.append(stream)

    def _accepted(self, stream: RunningStream, event: Accepted) -> bool:
        """The engine took the present attempt and counted its prompt; whether the reader knows that already."""
        again, stream.accepted = stream.accepted, True
        if stream.record is not None:
            stream.record.accepted(event)
        request = stream.request
        self._estimates[stream.pool].learn(request.prompt, event.prompt_tokens, request.tenant)
        stream.metrics.accepted(event.prompt_tokens)
        self._tell(EngineAccepted(stream.stream_id, stream.attempt, event.prompt_tokens))
        return again

    def _take_early(self, stream: RunningStream) -> None:
        """Take what waited for the event that has just come."""
        while stream.early and not stream.ended:
            event = stream.early.pop(stream.next_seq, None)
            if event is None:
                self._with_gap.append(stream)
                return
            stream.next_seq += 1
            self._take(stream, event)

    def _take_apart(self, stream: RunningStream, attempt: int, seq: int, event: StreamEvent) -> None:
        """What is not the stream's next event."""
        if attempt == stream.attempt:
            if seq > stream.next_seq:
                if not stream.early:
                    self._with_gap.append(stream)
                stream.early[seq] = event
            return
        second = stream.second
        if second is not None and second.number == attempt:
            self._take_second(stream, second, seq, event)

    def _take_second(self, stream: RunningStream, second: SecondAttempt, seq: int, event: StreamEvent) -> None:
        """Its events wait until one of the two attempts has given a token."""
        second.events.append((seq, event))
        if isinstance(event, Accepted):
            second.prompt_tokens = event.prompt_tokens
            self._tell(EngineAccepted(stream.stream_id, second.number, event.prompt_tokens))
        elif isinstance(event, Failed):
            self._tell(AttemptFailed(stream.stream_id, second.number, error_of(event)))
        else:
            self._tell(HedgeWon(stream.stream_id, second.number))
