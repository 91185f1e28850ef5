"""The router's judgement as a pure state machine: no I/O, time or threads.

`handle(happened, now)` returns the commands that the async shell carries out. The same code runs in virtual time
(`benchmarks/overload`). Each model is judged for itself, by `serve_app.router.decisions.model_core`.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.core.interfaces import RateLimitState, Rng
from serve_app.core.request import Priority
from serve_app.router.decisions.config import DecisionsConfig
from serve_app.router.decisions.engine_pool import EnginePool
from serve_app.router.decisions.messages import (
    Command,
    Ended,
    EngineGone,
    EngineReported,
    Happened,
    Offer,
    ReplicasListed,
    RoomMade,
    Tick,
)
from serve_app.router.decisions.model_core import ModelCore
from serve_app.router.decisions.outbox import Outbox


class RouterCore:
    """Decides for one router replica. Single-threaded; every request gets exactly one end.

    For example, a request for a model whose only replica has room:

        core = RouterCore(["m"], DecisionsConfig(), random.Random())
        core.handle(ReplicasListed("m", frozenset({"engine-1"})), now=0.0)
        core.handle(EngineReported(status_of_engine_1), now=0.1)
        core.handle(Offer(1, "m", prompt_tokens=20, max_tokens=None, deadline=None), now=0.2)
        # returns [Dispatch(stream_id=1, attempt=1, engine_id="engine-1")]
    """

    def __init__(self, models: Iterable[str], config: DecisionsConfig, rng: Rng) -> None:
        self._outbox = Outbox()
        self._models = {model: ModelCore(model, config, rng, self._outbox) for model in models}
        self._model_of: dict[int, ModelCore] = {}

    def handle(self, happened: Happened, now: float) -> list[Command]:
        """Take what happened at clock reading `now` (seconds, never running back); the commands, in order."""
        match happened:
            case Offer():
                core = self._models[happened.model]
                try:
                    core.handle(happened, now)
                finally:  # what is booked can be ended, whatever went wrong
                    if happened.stream_id in core.streams:
                        self._model_of[happened.stream_id] = core
            case EngineReported():
                self._tell(self._models.get(happened.status.model), happened, now)
            case ReplicasListed():
                self._models[happened.model].handle(happened, now)
            case EngineGone() | RoomMade() | Tick():
                for core in self._models.values():
                    core.handle(happened, now)
            case Ended():
                self._tell(self._model_of.pop(happened.stream_id, None), happened, now)
            case _:
                self._tell(self._model_of.get(happened.stream_id), happened, now)
        return self._outbox.drain()

    def tokens_received(self, stream_id: int, count: int, now: float) -> bool:
        """`count` output tokens of the stream's present attempt came; the first ones are its first token.

        No message, since it happens for every token. Returns whether that made room for something that waits, or
        outran a second attempt: then `RoomMade` is to be handled, once for all tokens that came together.
        """
        core = self._model_of.get(stream_id)
        return core is not None and core.tokens_received(core.streams[stream_id], count, now)

    # --- questions

    def output_tokens(self, stream_id: int) -> int:
        """Output tokens that came of a stream so far, over all attempts; 0 of one that was refused or has ended."""
        core = self._model_of.get(stream_id)
        return 0 if core is None else core.streams[stream_id].output_tokens

    def model(self, model: str) -> ModelCore:
        """What is decided for one model."""
        return self._models[model]

    def pool(self, model: str) -> EnginePool:
        """The engine replicas of `model`."""
        return self._models[model].pool

    def can_admit(self, now: float) -> bool:
        """Whether any model would take a small request now, into its queue or at once."""
        return any(core.can_admit(now) for core in self._models.values())

    def rate_limits(self, model: str, priority: Priority, now: float) -> RateLimitState:
        """The places of one band of the model's queue."""
        return self._models[model].rate_limits(priority, now)

    def queue_position(self, stream_id: int) -> int | None:
        """Requests ahead of this one; None when it does not wait."""
        core = self._model_of.get(stream_id)
        return None if core is None else core.queue.position(stream_id)

    @staticmethod
    def _tell(core: ModelCore | None, happened: Happened, now: float) -> None:
        if core is not None:  # what ended streams and unknown models tell is void
            core.handle(happened, now)
