"""Reads events that the token channel lost again, from the log that the engine retains."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from serve_app.core.errors import ChannelLost, ServeAppError
from serve_app.router.decisions.messages import AttemptFailed, Happened
from serve_app.router.engine_caller import EngineCaller
from serve_app.router.streams.running_stream import RunningStream
from serve_app.token_channel.codec import WireEvent
from serve_app.token_channel.endpoint import ChannelEndpoint, ReplyTo

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
        """Times that events had to be read again."""

    async def fill(self, stream: RunningStream, attempt: int) -> None:
        """Read what may be missing of this attempt; without it the attempt has failed."""
        if not stream.takes(attempt) or stream.engine_id is None or self.endpoint is None:
            return
        reply_to = ReplyTo(self.endpoint, stream.stream_id, attempt)
        try:
            events = await self._caller.read_log(stream.engine_id, stream.request.model, reply_to, stream.next_seq)
        except ServeAppError as error:
            logger.warning("request %s: reading events again failed: %s", stream.request.request_id, error)
            events = None
        if events is not None:
            self.filled += len(events) > 0
            self._deliver(stream.engine_id, events)
        elif stream.takes(attempt):
            lost = ChannelLost("Part of the answer was lost between engine and router.")
            self._tell(AttemptFailed(stream.stream_id, attempt, lost))
