"""Runs generations for routers: admits up to the replica's cap, sends events to the token channel, retains them."""

from __future__ import annotations

import asyncio
import logging
import time

from serve_app.core.engine_status import EngineStatus
from serve_app.core.errors import EngineFailed, EngineFull, ServeAppError, StreamTakenOver
from serve_app.core.events import StreamEvent
from serve_app.core.failures import failed_by
from serve_app.core.interfaces import Clock, Engine
from serve_app.core.request import GenerationRequest
from serve_app.engine.kept_generations import KeptGenerations
from serve_app.engine.sent_log import GenerationKey, SentLog
from serve_app.resilience.retention import RetentionConfig
from serve_app.telemetry.channel_metrics import SentCounts, sent_text
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams, ReplyTo
from serve_app.token_channel.event_log import EventLog
from serve_app.token_channel.handover import Claim, ClaimReply
from serve_app.token_channel.retained_events import LogPositions, RetainedEvents
from serve_app.token_channel.sender import ChannelSender

SENT_S = 30.0
"""Seconds for which an ended generation can be read again: longer than any event travels."""
SENT_BYTES = 16 * 1024 * 1024
"""Memory of what ended generations have sent: about a million tokens."""
SWEEP_S = 0.5

logger = logging.getLogger(__name__)


class _Generation:
    """One running generation: numbers its events, retains and sends them."""

    __slots__ = ("_attempt", "_router_id", "_sender", "_stream_id", "choices", "events", "task")

    def __init__(self, sender: ChannelSender, key: GenerationKey, events: EventLog, choices: int) -> None:
        self.choices = choices
        self._sender = sender
        self._router_id, self._stream_id, self._attempt = key
        self.events = events
        self.task: asyncio.Task[None] | None = None

    def emit(self, event: StreamEvent) -> None:
        """Take one event of the engine."""
        seq = len(self.events)
        self.events.append(event)
        self._sender.send(self._router_id, self._stream_id, self._attempt, seq, event)


class GenerationServer:
    """One engine and its token channel. Used from one event loop."""

    def __init__(
        self,
        engine_id: str,
        model: str,
        engine: Engine,
        capacity: int,
        channel: ChannelConfig,
        clock: Clock = time.monotonic,
        retention: RetentionConfig | None = None,
    ) -> None:
        """`capacity` is the number of sequences, one for each choice, at which `generate` raises `EngineFull`. The last
        request that is taken may go beyond it by its other choices, which the engine lets wait."""
        self._engine_id = engine_id
        self._model = model
        self._engine = engine
        self._capacity = capacity
        self._clock = clock
        self._ready = False
        self._running: dict[GenerationKey, _Generation] = {}
        self._sequences = 0
        self._log = SentLog(SENT_S, SENT_BYTES)
        self._sender = ChannelSender(engine_id, self.status, self._router_silent, channel, clock)
        self._kept = KeptGenerations(retention or RetentionConfig(), self._sender)
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Load the model; raises `EngineFailed` when that is impossible."""
        await self._engine.start()
        self._ready = True

    def attach(self, endpoint: ChannelEndpoint) -> None:
        """Connect to a router's channel, if not done yet."""
        self._sender.attach(endpoint)

    async def generate(self, request: GenerationRequest, reply_to: ReplyTo) -> int:
        """Run `request` to its end, whose events go to `reply_to`; how many there were.

        Raises `EngineFull` when the cap is reached. What the engine raises becomes a `Failed` event. Cancelling aborts
        the generation, unless the request has `retention`: then it may be the router's death that cancels. Such a
        generation goes on for its grace time, until it is claimed, or until its router is seen to live on.
        """
        choices = request.sampling.n
        # Not `+ choices`: routers send a large request into half of their share, and would send it again and again.
        if self._sequences >= self._capacity:
            raise EngineFull(f"The engine runs {self._sequences} generations already.")
        self._sender.attach(reply_to.endpoint)
        key = reply_to.key
        generation = self._running[key] = _Generation(self._sender, key, self._log.open(key), choices)
        self._sequences += choices
        if request.retention is None:
            generation.task = asyncio.current_task()
            try:
                await self._run(request, generation)
            finally:
                self._over(key)
        else:
            older = self._kept.begin(request, key, generation.events, self._clock())
            if older is not None:
                self._cancel(older)
            generation.task = asyncio.create_task(self._run(request, generation))
            generation.task.add_done_callback(lambda _: self._over(key))  # it may end before it began
            self._sweep_later()
            try:
                await asyncio.shield(generation.task)
            except asyncio.CancelledError:
                this = asyncio.current_task()
                if this is not None and this.cancelling():
                    if not generation.task.done() and not self._kept.left(key, self._clock()):
                        generation.task.cancel()
                    raise
                # It was aborted here, of which its last event tells: an error would look like this replica's death.
        return len(generation.events)

    async def _run(self, request: GenerationRequest, generation: _Generation) -> None:
        try:
            await self._engine.generate(request, generation.emit)
        except ServeAppError as error:
            generation.emit(failed_by(error))
        except Exception as error:
            logger.exception("request %s: the engine raised", request.request_id)
            generation.emit(failed_by(EngineFailed(f"The engine failed: {type(error).__name__}.")))

    def _over(self, key: GenerationKey) -> None:
        now = self._clock()
        self._sequences -= self._running.pop(key).choices
        self._log.end(key, now)
        self._kept.end(key, now)
        self._sweep_later()

    def claim(self, claim: Claim) -> ClaimReply:
        """Give a kept stream up to a router, which ends it here, or tell how it stands."""
        answer, aborted = self._kept.claim(claim, self._clock())
        if aborted is not None:
            taken = StreamTakenOver("The stream was resumed elsewhere, and goes on there.")
            # Its router may yet live, as one that hung: it must not go on with it.
            self._running[aborted].emit(failed_by(taken))
            self._cancel(aborted)
        return answer

    def read_logs(self, router_id: str, positions: LogPositions) -> RetainedEvents:
        """Events of this router's generations from these positions on, as far as they are retained (still)."""
        events: list[WireEvent] = []
        known = set()
        for (stream_id, attempt), from_seq in positions.items():
            retained = self._log.read((router_id, stream_id, attempt), from_seq)
            if retained is not None:
                known.add((stream_id, attempt))
                events += [(stream_id, attempt, seq, event) for seq, event in enumerate(retained, from_seq)]
        return RetainedEvents(frozenset(known), events)

    def keep_only(self, live: LiveStreams) -> int:
        """Abort the router's generations that it no longer wants; how many there were.

        Serve can lose a cancellation that meets the moment in which it hands a call to the replica.
        """
        unwanted = [key for key in self._running if not live.wants(key)]
        for key in unwanted:
            self._kept.unwanted(key)
            self._cancel(key)
        return len(unwanted)

    def status(self) -> EngineStatus:
        """The present heartbeat."""
        return EngineStatus(
            engine_id=self._engine_id,
            model=self._model,
            load=self._engine.load(),
            capacity=self._capacity,
            generations=self._sequences,
            routers=len(self._sender.router_ids),
            ready=self._ready,
            max_model_len=self._engine.max_model_len if self._ready else 0,
            max_token_bytes=self._engine.max_token_bytes if self._ready else 0,
        )

    async def check_health(self) -> None:
        """Raise `EngineFailed` when the engine can no longer serve."""
        try:
            await self._engine.check_health()
        except EngineFailed:
            self._ready = False
            raise

    def metrics_text(self) -> bytes:
        """The engine's own metrics, and those of its end of the token channel, in Prometheus text format."""
        stats = self._sender.stats
        sent = SentCounts(
            messages=stats.messages,
            events=stats.events,
            bytes=stats.bytes,
            unsent_events=stats.dropped_events,
            acknowledgements=stats.acknowledgements,
            refused_messages=stats.refused_messages,
        )
        return self._engine.metrics_text() + sent_text(sent)

    async def close(self) -> None:
        """Abort what runs and release the engine. Idempotent."""
        self._ready = False
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for key in list(self._running):
            self._cancel(key)
        await self._sender.close()
        await self._engine.close()

    def _router_silent(self, router_id: str) -> None:
        """A router is gone: nobody reads its generations any more, but others may claim those that are retained."""
        now = self._clock()
        for key in [key for key in self._running if key[0] == router_id]:
            if not self._kept.router_silent(key, now):
                self._cancel(key)

    def _sweep_later(self) -> None:
        if self._sweep_timer is None:
            self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweep_timer = None
        now = self._clock()
        self._log.expire(now)
        for key in self._kept.sweep(now):
            self._cancel(key)
        if len(self._kept) or self._log.has_ended:
            self._sweep_later()

    def _cancel(self, key: GenerationKey) -> None:
        generation = self._running.get(key)
        if generation is not None and generation.task is not None:
            generation.task.cancel()
