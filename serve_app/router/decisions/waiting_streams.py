"""Streams of one model that have no replica, and the turns in which they get one."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.core.errors import DeadlineExceeded
from serve_app.core.interfaces import Rng
from serve_app.resilience.admission_queue import AdmissionQueue
from serve_app.resilience.drain_rate import DrainRate
from serve_app.router.decisions.attempts import Attempts
from serve_app.router.decisions.engine_pool import EngineView
from serve_app.router.decisions.messages import Dispatch, TickAt
from serve_app.router.decisions.outbox import Outbox
from serve_app.router.decisions.picker import pick
from serve_app.router.decisions.stream_ledger import StreamLedger


class WaitingStreams:
    """A stream waits in one place: in the queue, or *parked* until its pause is over and the retry budget has room.

    Pure and single-threaded; clock readings (`now`) are in seconds and never run back.
    """

    def __init__(
        self,
        streams: Mapping[int, StreamLedger],
        queue: AdmissionQueue,
        drain: DrainRate,
        attempts: Attempts,
        rng: Rng,
        outbox: Outbox,
    ) -> None:
        """`streams` has all streams of the model, by id."""
        self.queue = queue
        self.parked: dict[int, StreamLedger] = {}
        self._streams = streams
        self._drain = drain
        self._attempts = attempts
        self._rng = rng
        self._outbox = outbox

    @property
    def count(self) -> int:
        """Streams without a replica: queued, in line, or parked."""
        return len(self.queue) + self.queue.in_line + len(self.parked)

    def put_back(self, stream: StreamLedger, now: float) -> None:
        """Queue a stream again that was admitted once: ahead of new work."""
        self.queue.put_back(stream.as_waiting(), now)

    def park(self, stream: StreamLedger, delay_s: float, now: float) -> None:
        """Let the stream wait for `delay_s` seconds, and then for budget."""
        stream.not_before = now + delay_s
        self.parked[stream.stream_id] = stream
        if delay_s > 0.0:
            self._outbox.order(TickAt(stream.not_before))

    def remove(self, stream_id: int) -> None:
        """Forget a stream that ended; nothing happens if it does not wait."""
        self.parked.pop(stream_id, None)
        self.queue.remove(stream_id)

    def start_at_once(self, stream: StreamLedger, now: float, ready: list[EngineView]) -> bool:
        """Send a new stream to one of the `ready` replicas if nobody waits and one has room; whether it was sent.

        It takes no place in the queue then, so it cannot be refused for lack of one.
        """
        if not self.queue.is_empty:
            return False
        engine = pick(self._attempts.candidates(now, stream, ready=ready), self._rng)
        if engine is None:
            return False
        waiting = stream.as_waiting()
        self.queue.pass_through(waiting)
        stream.charged = waiting.cost
        self._send(stream, engine, now)
        return True

    def dispatch(self, now: float) -> None:
        """Send what waits to replicas that have room. Call it after whatever may have made room."""
        if self.parked:
            self._unpark(now)
        queue = self.queue
        while (stream_id := queue.head(now)) is not None:
            stream = self._streams[stream_id]
            if stream.failed or stream.is_too_late(now):
                queue.remove(stream_id)
                self._outbox.fail(stream, DeadlineExceeded("The deadline passed."))
                continue
            engine = pick(self._attempts.candidates(now, stream, stream.avoid), self._rng)
            if engine is None:
                if not self._attempts.waits_for_its_group(stream, now):
                    break
                # It can go nowhere else, and must not hold those up who can.
                queue.remove(stream_id)
                self.parked[stream_id] = stream
                continue
            cost = queue.take(stream_id, now).cost
            if stream.charged is None:  # a tenant pays for the first dispatch only
                stream.charged = cost
            self._send(stream, engine, now)
        self._drain.backlogged(len(queue) > 0 and bool(self._attempts.pool.ready()), now)

    def _send(self, stream: StreamLedger, engine: EngineView, now: float) -> None:
        self._attempts.start(stream, engine, now)
        dispatch = Dispatch(stream.stream_id, stream.attempt, engine.engine_id, stream.begun, group=engine.group)
        self._outbox.order(dispatch)

    def _unpark(self, now: float) -> None:
        """Queue again those whose pause is over and for whom there is budget."""
        for stream_id, stream in list(self.parked.items()):
            if stream.failed:
                del self.parked[stream_id]
            elif now >= stream.not_before:
                if self._attempts.waits_for_its_group(stream, now):
                    continue
                if stream.budget_tokens is None and not self._attempts.take_budget(stream):
                    return  # who came first is not passed over for another one that needs less
                del self.parked[stream_id]
                self.put_back(stream, now)
