"""Tells the decision core what happened, and carries out what it orders."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from serve_app.core.interfaces import Clock
from serve_app.router.attempt_calls import AttemptCalls
from serve_app.router.background import BackgroundTasks
from serve_app.router.decisions.core import RouterCore
from serve_app.router.decisions.messages import Command, Dispatch, Fail, Happened, Tick, TickAt, Wake, Withdraw
from serve_app.router.engine_caller import EngineCaller
from serve_app.router.gap_reader import GapReader
from serve_app.router.streams.running_stream import RunningStream
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint


class Conductor:
    """One for each router replica. Used from one event loop."""

    def __init__(
        self,
        core: RouterCore,
        streams: Mapping[int, RunningStream],
        pools: Mapping[str, tuple[str, ...]],
        caller: EngineCaller,
        tasks: BackgroundTasks,
        clock: Clock,
        deliver: Callable[[str, Sequence[WireEvent]], None],
    ) -> None:
        """`streams` are those that have not ended; `pools` has the deployments of each pool;
        `deliver(engine_id, events)` takes events that were not brought by the channel."""
        self._core = core
        self._streams = streams
        self._pools = pools
        self._caller = caller
        self._clock = clock
        self.gaps = GapReader(caller, self.tell, deliver)
        self.calls = AttemptCalls(caller, self.gaps, tasks, clock, self.tell, deliver)
        self._commands: deque[Command] = deque()
        self._carrying_out = False

    def start(self, endpoint: ChannelEndpoint) -> None:
        """Engines are told to send to `endpoint` from now on."""
        self.gaps.endpoint = self.calls.endpoint = endpoint

    def tell(self, happened: Happened, now: float | None = None) -> None:
        """Tell the core, and carry out what it orders.

        Carrying out a command may make something else happen, as the end of a stream: what that orders comes after
        everything ordered before, or a `Withdraw` would meet the call of a later `Dispatch`.
        """
        self._commands.extend(self._core.handle(happened, self._clock() if now is None else now))
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._commands:
                self._carry_out(self._commands.popleft())
        finally:
            self._carrying_out = False

    def _carry_out(self, command: Command) -> None:
        match command:
            case Wake():
                for group in self._pools[command.model]:
                    self._caller.wake(group)
            case TickAt():
                delay_s = max(0.0, command.at - self._clock())
                asyncio.get_running_loop().call_later(delay_s, self.tell, Tick())
            case _:
                stream = self._streams.get(command.stream_id)
                if stream is not None:  # otherwise it ended while the command waited, and the core knows
                    self._carry_out_for(stream, command)

    def _carry_out_for(self, stream: RunningStream, command: Dispatch | Withdraw | Fail) -> None:
        match command:
            case Dispatch(hedge=True):
                self.calls.hedge(stream, command)
            case Dispatch():
                self.calls.dispatch(stream, command)
            case Withdraw():
                self.calls.withdraw(stream, command)
            case Fail():
                stream.metrics.refused(command.refusal)
                stream.end(command.error)
