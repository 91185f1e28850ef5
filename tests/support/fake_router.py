"""A router whose streams play a script: what the ingress is tested against."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from serve_app.core.cut_text import cut
from serve_app.core.departure import Departure
from serve_app.core.errors import (
    InvalidRequest,
    ModelNotFound,
    Refused,
    ServeAppError,
    StreamCancelled,
    StreamConflict,
    StreamNotFound,
)
from serve_app.core.events import Accepted, Finished, FinishReason, StreamEvent, TokenDelta
from serve_app.core.interfaces import KeptState, ModelCard, RateLimitState, Sink, Skipped
from serve_app.core.request import GenerationRequest, Priority
from serve_app.router.streams.kept_answer import state_of
from serve_app.token_channel.event_log import EventLog


@dataclass(frozen=True)
class Silence:
    """Nothing comes for as long as the reader is willing to wait; `place` is then the place in the queue."""

    place: int | None = None


@dataclass(frozen=True)
class Hang:
    """Nothing comes: only cancellation, `FakeStream.fail`, or what is done to a retained stream, ends the wait."""


@dataclass(frozen=True)
class Late:
    """`events` come after `after_s` seconds, within the time that the reader is willing to wait."""

    after_s: float
    events: Sequence[StreamEvent]


Step = Sequence[StreamEvent] | Silence | Hang | Late | Exception
Script = Sequence[Step]
_CANCELLED = StreamCancelled("It was cancelled.")


class FakeClock:
    """Monotonic seconds that only tests move."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class FakeStream:
    """Plays one script; `closed` tells whether the reader gave it back, which `close_allowed` can hold up."""

    def __init__(self, request: GenerationRequest, script: Script, clock: FakeClock) -> None:
        self.request = request
        self.timeouts_s: list[float | None] = []
        self.waiting = asyncio.Event()
        self.closing = asyncio.Event()
        self.close_allowed = asyncio.Event()
        self.close_allowed.set()
        self.closed = False
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._steps = list(script)
        self._whole, self._from_token = script, 0
        self._clock = clock
        self._place: int | None = None

    async def next(self, timeout_s: float | None = None, sink: Sink | None = None) -> Sequence[StreamEvent] | None:
        self.timeouts_s.append(timeout_s)
        await asyncio.sleep(0)
        if not self._steps:
            return None
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Hang):
            self.waiting.set()
            await self._failure
            return await self.next(timeout_s, sink)
        if isinstance(step, Silence):
            assert timeout_s is not None, "silence without a timeout would last for ever"
            self._clock.now_s += timeout_s
            self._place = step.place
            return ()
        if isinstance(step, Late):
            self._clock.now_s += step.after_s
            return step.events
        return step

    @property
    def queue_position(self) -> int | None:
        return self._place

    def fail(self, error: ServeAppError) -> None:
        """End a `Hang` by `error`."""
        self._failure.set_exception(error)

    def go_on(self, error: ServeAppError | None = None) -> None:
        """End the `Hang` that is or will be met: by `error`, or with the steps after it."""
        if not self.waiting.is_set():
            self._steps = _after_hang(self._steps, error)
        elif not self._failure.done():
            self._failure.set_result(None) if error is None else self._failure.set_exception(error)

    def skipped(self) -> Skipped:
        log = EventLog([event for step in self._whole if isinstance(step, Sequence) for event in step])
        return Skipped(self._from_token, log.shown_characters(self._from_token))

    async def aclose(self) -> None:
        self.closing.set()
        await self.close_allowed.wait()
        self.closed = True


@dataclass
class Retained:
    """A stream that outlives its reader: `script`'s events have all come, those up to a `Hang` if it has one."""

    request: GenerationRequest
    script: Script
    stopped: bool = False
    readers: list[FakeStream] = field(default_factory=list)

    def answer(self) -> KeptState:
        events: list[StreamEvent] = []
        ended = True
        error: ServeAppError | None = None
        for step in self.script:
            if isinstance(step, Hang):
                ended = self.stopped
                error = _CANCELLED if self.stopped else None
                break
            if isinstance(step, ServeAppError):
                error = step
            elif isinstance(step, Late):
                events += step.events
            elif isinstance(step, Sequence):
                events += step
        return state_of(self.request, EventLog(events), ended, error)


@dataclass
class FakeRouter:
    """Serves `model_ids`; each opened stream plays the next of `scripts`, the last one again when they run out."""

    scripts: list[Script] = field(default_factory=list)
    model_ids: tuple[str, ...] = ("test-model",)
    admits: bool = True
    limits: RateLimitState = field(default_factory=lambda: RateLimitState(256, 250, 400_000, 399_000, 1.5, 0.25))
    limits_asked: list[tuple[str, Priority]] = field(default_factory=list)
    metrics: Callable[[], bytes] = lambda: b"# no metrics\n"
    clock: FakeClock = field(default_factory=FakeClock)
    streams: list[FakeStream] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    turned_away_requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Request id, tenant and error code of each."""
    retained: dict[str, Retained] = field(default_factory=dict)
    signing_key: bytes = b"tests know it"
    departure: Departure = field(default_factory=Departure)

    def open(self, request: GenerationRequest) -> FakeStream:
        if request.model not in self.model_ids:
            raise ModelNotFound(f"The model '{cut(request.model)}' does not exist.", "model")
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if (retention := request.retention) is not None:
            if retention.key in self.retained:
                raise StreamConflict("There is a stream of that key.")
            self.retained[retention.key] = Retained(request, script)
        stream = self._played(request, script)
        if retention is not None:
            self.retained[retention.key].readers.append(stream)
        return stream

    async def resume(self, key: str, tenant: str, from_token: int = 0) -> FakeStream:
        retained = self._find(key, tenant)
        answer = retained.answer()
        if isinstance(answer.error, Refused) and not answer.events:
            raise StreamNotFound("No such stream.")
        if answer.ended and from_token > answer.position:
            raise InvalidRequest("The stream has fewer tokens.", "offset", "invalid_value")
        rest = [_rest(step, from_token) for step in retained.script]
        stream = self._played(retained.request, [step for step in rest if step != []])
        if retained.stopped:
            stream.go_on(_CANCELLED)
        stream._whole, stream._from_token = retained.script, from_token
        retained.readers.append(stream)
        return stream

    def go_on(self, key: str) -> None:
        """What comes after the `Hang` of a retained stream has come, for all its readers."""
        retained = self.retained[key]
        retained.script = _after_hang(retained.script, None)
        for reader in retained.readers:
            reader.go_on()

    async def look_up(self, key: str, tenant: str) -> KeptState:
        return self._find(key, tenant).answer()

    async def cancel(self, key: str, tenant: str, *, forget: bool = False) -> KeptState:
        retained = self._find(key, tenant)
        if not retained.stopped and not retained.answer().ended:
            for reader in retained.readers:
                reader.go_on(_CANCELLED)
        retained.stopped = True
        if forget:
            del self.retained[key]
        return retained.answer()

    def _find(self, key: str, tenant: str) -> Retained:
        retained = self.retained.get(key)
        if retained is None or retained.request.tenant != tenant:
            raise StreamNotFound("No such stream.")
        return retained

    def _played(self, request: GenerationRequest, script: Script) -> FakeStream:
        stream = FakeStream(request, script, self.clock)
        self.streams.append(stream)
        self.opened.set()
        return stream

    def turned_away(self, request_id: str, tenant: str, error: ServeAppError) -> None:
        self.turned_away_requests.append((request_id, tenant, error.code))

    def models(self) -> Sequence[ModelCard]:
        return [ModelCard(model_id, 1_700_000_000, 4096) for model_id in self.model_ids]

    def can_admit(self) -> bool:
        return self.admits

    def rate_limits(self, model: str, priority: Priority) -> RateLimitState:
        self.limits_asked.append((model, priority))
        if model not in self.model_ids:
            raise ModelNotFound(f"The model '{model}' does not exist.", "model")
        return self.limits

    async def metrics_text(self) -> bytes:
        return self.metrics()

    @property
    def requests(self) -> list[GenerationRequest]:
        return [stream.request for stream in self.streams]


def speak(
    *texts: str, prompt: Iterable[int] = (1, 2, 3), reason: FinishReason = FinishReason.STOP, cached: int = 0
) -> Script:
    """A script that accepts, says `texts`, one token and one step each, and ends."""
    ids = list(prompt)
    deltas = [[TokenDelta(0, index, 1, text, [100 + index])] for index, text in enumerate(texts)]
    return [[Accepted(len(ids), ids)], *deltas, [Finished(0, reason, None, cached)]]


def fail(error: ServeAppError) -> Script:
    """A script that fails before its first event."""
    return [error]


def _after_hang(steps: Script, error: ServeAppError | None) -> list[Step]:
    """`steps` with the first `Hang` over: ended by `error`, or gone."""
    for place, step in enumerate(steps):
        if isinstance(step, Hang):
            return [*steps[:place], *([] if error is None else [error]), *steps[place + 1 :]]
    return list(steps)


def _rest(step: Step, from_token: int) -> Step:
    """What of `step` a reader sees who has the first `from_token` tokens."""
    if not isinstance(step, Sequence):
        return step
    rest: list[StreamEvent] = []
    for event in step:
        if isinstance(event, TokenDelta) and event.index < from_token:
            skipped = from_token - event.index
            if skipped < event.count:
                rest.append(event.rest(from_token))
        else:
            rest.append(event)
    return rest
