"""The life of a request in a router replica: offer, dispatch, stream, settle."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from itertools import count

from serve_app.core.engine_status import EngineStatus
from serve_app.core.errors import (
    ChannelLost,
    EngineLost,
    InternalError,
    ModelNotFound,
    ServeAppError,
    StreamTakenOver,
)
from serve_app.core.interfaces import Clock, ModelCard, RateLimitState
from serve_app.core.outcome import RequestOutcome
from serve_app.core.prompt_size import least_tokens
from serve_app.core.request import GenerationRequest, Priority
from serve_app.core.served_models import ServedModels
from serve_app.router.background import BackgroundTasks
from serve_app.router.conductor import Conductor
from serve_app.router.config import RouterConfig
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import Ended, EngineGone, EngineReported, Offer, ReplicasListed, Tick
from serve_app.router.engine_caller import EngineCaller
from serve_app.router.engine_upkeep import EngineUpkeep
from serve_app.router.event_intake import EventIntake
from serve_app.router.shown_state import show
from serve_app.router.streams.coarse_clock import CoarseClock
from serve_app.router.streams.kept_answer import KeptAnswer
from serve_app.router.streams.replay_record import why_not_continuable
from serve_app.router.streams.running_stream import RunningStream
from serve_app.router.token_estimate import TokenEstimate
from serve_app.telemetry.logging import RequestLog
from serve_app.telemetry.metrics import ServeMetrics
from serve_app.telemetry.reasons import ResumedFrom
from serve_app.telemetry.stream_metrics import StreamMetrics
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint, LiveStreams

TICK_S = 0.1
LOOK_AFTER_EVERY_TICKS = 5

logger = logging.getLogger(__name__)


class RouterLifecycle:
    """Admits requests and turns each into a stream. Everything runs on one event loop.

    It is the token channel's listener, and what the ingress calls.
    """

    def __init__(
        self,
        served: ServedModels,
        created: int,
        config: RouterConfig,
        caller: EngineCaller,
        metrics: ServeMetrics,
        log: RequestLog,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """`created`: Unix time in seconds at which the application was built."""
        self._served = served
        self._created = created
        self._config = config
        self._caller = caller
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._coarse_clock = CoarseClock(clock())
        self._estimates = {pool: TokenEstimate() for pool in served.pools}
        self._streams: dict[int, RunningStream] = {}
        self._newest_id = 0
        self._tasks = BackgroundTasks()
        self._upkeep = EngineUpkeep(caller)
        self.core = RouterCore(served.pools, config, rng or random.Random())
        self.conductor = conductor = Conductor(
            self.core, self._streams, served.pools, caller, self._tasks, clock, deliver=self.on_events
        )
        self._tell = conductor.tell
        self._intake = EventIntake(self._streams, self.core, self._estimates, self._coarse_clock, conductor.tell)
        self._endpoint: ChannelEndpoint | None = None
        self.silences = 0
        """Times that an engine fell silent."""

    async def start(self, endpoint: ChannelEndpoint) -> None:
        """Begin to dispatch; engines are told to send to `endpoint`."""
        self._endpoint = endpoint
        self.conductor.start(endpoint)
        self._tasks.spawn(self._tick())

    async def close(self) -> None:
        """End every stream and call. Engines are told nothing: they go on with kept streams, for other routers."""
        for stream in list(self._streams.values()):
            stream.end(EngineLost("The router shut down."))
        await self._tasks.close()
        await self._caller.close()

    @property
    def gaps(self) -> int:
        """Times that events had to be read again from an engine's log of what it sent."""
        return self.conductor.gaps.filled

    # --- what the ingress calls (core.interfaces.Router, less the metrics page)

    def open(
        self,
        request: GenerationRequest,
        kept: KeptAnswer | None = None,
        taken_from: ResumedFrom | None = None,
    ) -> RunningStream:
        """See `core.interfaces.Router.open`. With `kept`, events go there, and the output goes on where it stands;
        `taken_from` says who had it before, if another one had."""
        try:
            target = self._served.resolve(request.model)
        except ModelNotFound as unknown:
            self._metrics.not_offered(unknown.outcome)
            self._log.not_offered(request, unknown)
            raise
        pool, now = target.pool, self._clock()
        counted, output_tokens = (0, 0) if kept is None else (kept.prompt_tokens, kept.log.tokens)
        # Before anything is booked: an estimate that fails must leave no stream behind.
        prompt_tokens = counted or self._estimates[pool].tokens(request.prompt, request.tenant)
        least = least_tokens(request.prompt, self.core.pool(pool).max_token_bytes())
        stream = self._new_stream(request, pool, now)
        if kept is not None:
            stream.keep_in(kept)
        if taken_from is not None:
            stream.metrics.taken_over(taken_from, counted, output_tokens, now)
        offer = Offer(
            stream.stream_id,
            pool,
            prompt_tokens,
            request.sampling.max_tokens,
            stream.deadline,
            request.tenant,
            request.priority,
            why_not_continuable(request) is None,
            output_tokens if taken_from is not None else None,
            hedgeable=request.retention is None,  # or engines would retain two answers
            choices=request.sampling.n,
            least_prompt_tokens=least,
            groups=target.groups,
        )
        self._streams[stream.stream_id] = stream
        try:
            self._tell(offer, now)
        except Exception:
            stream.end(InternalError("The server had an internal error."))
            raise
        return stream

    def turned_away(self, request_id: str, tenant: str, error: ServeAppError) -> None:
        """See `core.interfaces.Router.turned_away`."""
        self._metrics.not_offered(error.outcome)
        self._log.turned_away(request_id, tenant, error)

    def models(self) -> Sequence[ModelCard]:
        """See `core.interfaces.Router.models`."""
        return [
            ModelCard(name, self._created, self.core.pool(target.pool).max_model_len())
            for name, target in self._served.targets.items()
        ]

    def can_admit(self) -> bool:
        """See `core.interfaces.Router.can_admit`."""
        return self.core.can_admit(self._clock())

    def rate_limits(self, model: str, priority: Priority) -> RateLimitState:
        """See `core.interfaces.Router.rate_limits`."""
        return self.core.rate_limits(self._served.resolve(model).pool, priority, self._clock())

    # --- what Serve tells

    def replicas_listed(self, pool: str, engine_ids: frozenset[str], group: str = "") -> None:
        """Serve's list of running replicas of one deployment changed: new ones are told to attach. `group` is the
        deployment's name, which may be left out where the pool has no other."""
        self._tell(ReplicasListed(pool, engine_ids, group))
        self._look_after_engines()

    def replica_died(self, engine_id: str) -> None:
        """Serve saw the replica's actor die."""
        self._tell(EngineGone(engine_id, EngineLost("The engine replica died.")))

    # --- what the token channel tells (token_channel.receiver.ChannelListener)

    def on_events(self, engine_id: str, events: Sequence[WireEvent]) -> None:
        """One batch of events, in order."""
        self._coarse_clock.now = self._clock()
        if with_gap := self._intake.take(events):
            self._tasks.spawn(self.conductor.gaps.fill(engine_id, with_gap))

    def on_status(self, status: EngineStatus) -> None:
        """A heartbeat."""
        self._tell(EngineReported(status))

    def on_silent(self, engine_id: str) -> None:
        """No heartbeat came in time."""
        logger.warning("engine %s is silent on the token channel", engine_id)
        self.silences += 1
        self._tell(EngineGone(engine_id, ChannelLost("The token channel to the engine went silent.")))

    def on_loss(self, engine_id: str) -> None:
        """A message of the engine went missing: look after every stream that it runs."""
        self._tasks.spawn(self.conductor.gaps.fill(engine_id, list(self._streams.values())))

    # --- streams begin and end

    def metrics_of(self, request: GenerationRequest, now: float) -> StreamMetrics:
        """Begin to count a stream of this request: under the name of its pool, whatever the client calls it. Raises
        `ModelNotFound`."""
        pool = self._served.resolve(request.model).pool
        return self._metrics.offered(pool, now, request.sampling.n, request.priority)

    def _new_stream(self, request: GenerationRequest, pool: str, now: float) -> RunningStream:
        self._newest_id += 1
        stream = RunningStream(
            self._newest_id,
            request,
            pool,
            self.metrics_of(request, now),
            self._config.stream_buffer_bytes,
            self._coarse_clock,
            self._settle,
            self.core.queue_position,
        )
        stream.deadline = None if request.timeout_s is None else now + request.timeout_s
        return stream

    def _settle(self, stream: RunningStream) -> None:
        """Once per stream, whatever ended it."""
        del self._streams[stream.stream_id]
        self.conductor.calls.ended(stream)
        output_tokens = self.core.output_tokens(stream.stream_id)
        self._tell(Ended(stream.stream_id, stream.completed))
        if stream.kept is not None and not stream.completed:
            self._end_at_engine(stream)
        if isinstance(stream.error, StreamTakenOver):  # counted where it ends
            stream.metrics.handed_over(output_tokens)
            self._log.handed_over(stream.request, stream.metrics, stream.engine_id)
            return
        outcome = _outcome(stream)
        stream.metrics.settled(outcome, self._clock(), output_tokens=output_tokens, cached_tokens=stream.cached_tokens)
        self._log.settled(stream.request, stream.metrics, outcome, stream.engine_id, stream.error)

    def _live_streams(self, endpoint: ChannelEndpoint) -> LiveStreams:
        attempts = {stream.stream_id: stream.attempt for stream in self._streams.values()}
        return LiveStreams(endpoint.router_id, self._newest_id, attempts)

    def _look_after_engines(self) -> None:
        if self._endpoint is None:
            return
        live = self._live_streams(self._endpoint)
        for pool in self._served.pools:
            for work in self._upkeep.due(self.core.pool(pool), self._endpoint, live):
                self._tasks.spawn(work)

    def _end_at_engine(self, stream: RunningStream) -> None:
        """Tell the engine: it goes on with a kept generation whose call is cancelled, as by this router's death."""
        if stream.engine_id is not None and self._endpoint is not None:
            live = self._live_streams(self._endpoint)
            self._tasks.spawn(self._upkeep.keep_only(stream.engine_id, stream.group, live))

    async def _tick(self) -> None:
        for ticks in count():
            await asyncio.sleep(TICK_S)
            try:
                if ticks % LOOK_AFTER_EVERY_TICKS == 0:
                    self._look_after_engines()
                now = self._coarse_clock.now = self._clock()
                self._tell(Tick(), now)
                self._wake_idle(now)
            except Exception:
                logger.exception("the router's tick failed")

    def _wake_idle(self, now: float) -> None:
        # Apart from the loop that never ends: a variable of its own would hold the last stream for ever.
        for stream in list(self._streams.values()):
            stream.wake_if_idle(now)

    def publish_metrics(self) -> None:
        """Bring the gauges up to date; called before they are read."""
        show({pool: self.core.model(pool) for pool in self._served.pools}, self._metrics, self._clock())


def _outcome(stream: RunningStream) -> RequestOutcome:
    if stream.error is not None:
        return stream.error.outcome
    return RequestOutcome.COMPLETED if stream.completed else RequestOutcome.CANCELLED
