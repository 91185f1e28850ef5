"""Reads events that the token channel lost again, from the log that the engine retains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from serve_app.core.errors import ChannelLost, ServeAppError
from serve_app.router.decisions.messages import AttemptFailed, Happened
from serve_app.router.engine_caller import EngineCaller
from serve_app.router.streams.running_stream import RunningStream
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint
from serve_app.token_channel.retained_events import NOTHING_RETAINED, RetainedEvents

READ_TIMEOUT_S = 5.0
"""An engine that does not answer for so long has lost the events, as far as their readers can tell."""
_STREAMS_A_CALL = 64
"""The engine encodes an answer in one turn of its event loop: that must stay short, however many streams there are."""

logger = logging.getLogger(__name__)


class GapReader:
    """Used from one event loop."""

    def __init__(
        self,
        caller: EngineCaller,
        tell: Callable[[Happened], None],
        deliver: Callable[[str, Sequence[WireEvent]], None],
    ) -> None:
        """`deliver(engine_id, events)` takes what was read, as if the channel had brought it."""
        self._caller = caller
        self._tell = tell
        self._deliver = deliver
        self.endpoint: ChannelEndpoint | None = None
        """This router's own, by which engines know its streams."""
        self.filled = 0
        """Times that events of a stream had to be read again."""

    async def fill(self, engine_id: str, streams: Iterable[RunningStream]) -> None:
        """Read what may be missing of the present attempts of `streams` at this replica; what the replica has not
        retained has failed.

        A message that is lost has events of many streams: they are asked for together.
        """
        here = (stream for stream in streams if stream.engine_id == engine_id)
        while some := list(islice(here, _STREAMS_A_CALL)):
            await self._fill(engine_id, {(s.stream_id, s.attempt): s for s in some if s.takes(s.attempt)})

    async def _fill(self, engine_id: str, streams: dict[tuple[int, int], RunningStream]) -> None:
        if not streams:
            return
        found = await self._read(engine_id, streams)
        self.filled += len({stream_id for stream_id, *_ in found.events})
        if found.events:
            self._deliver(engine_id, found.events)
        for key, stream in streams.items():
            if key not in found.known and stream.takes(key[1]):
                lost = ChannelLost("Part of the answer was lost between engine and router.")
                self._tell(AttemptFailed(*key, lost))

    async def _read(self, engine_id: str, streams: dict[tuple[int, int], RunningStream]) -> RetainedEvents:
        assert self.endpoint is not None
        group = next(iter(streams.values())).group  # all of them are at one replica
        positions = {key: stream.next_seq for key, stream in streams.items()}
        call = self._caller.read_logs(engine_id, group, self.endpoint.router_id, positions)
        try:
            return await asyncio.wait_for(call, READ_TIMEOUT_S)
        except (ServeAppError, TimeoutError) as error:
            reason = error or "no answer"
            logger.warning("engine %s: reading events of %d streams again failed: %s", engine_id, len(streams), reason)
            return NOTHING_RETAINED
