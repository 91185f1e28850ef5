"""The engine's side of the token channel: events and reports to every router that asked for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import zmq

from serve_app.core.engine_status import EngineStatus
from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import Clock
from serve_app.token_channel.codec import check_version
from serve_app.token_channel.config import ChannelConfig
from serve_app.token_channel.endpoint import ChannelEndpoint
from serve_app.token_channel.liveness import SilenceDetector
from serve_app.token_channel.router_link import RouterLink
from serve_app.token_channel.sockets import Context
from serve_app.token_channel.stats import SenderStats

_logger = logging.getLogger(__name__)

_TIMER_TOLERANCE = 0.9
"""Part of an interval that counts as the whole, since timers do not fire to the microsecond."""


class ChannelSender:
    """Sends one engine's events to the routers that it is attached to.

    What is sent within one turn of the event loop, as one engine step's tokens are, travels as one message per
    router. Use it from one event loop.
    """

    def __init__(
        self,
        engine_id: str,
        status: Callable[[], EngineStatus],
        on_router_silent: Callable[[str], None],
        config: ChannelConfig,
        clock: Clock = time.monotonic,
    ) -> None:
        """`engine_id` (1 to 255 bytes in UTF-8) must be new at each start of an engine. `status` is called about once
        per `config.status_interval_s` and router. `on_router_silent(router_id)` tells once that a router acknowledged
        nothing for the silence timeout: its streams go nowhere; it may come back by itself.
        """
        if not 1 <= len(engine_id.encode()) <= 255:
            raise ValueError("engine_id must have 1 to 255 bytes")
        self.stats = SenderStats()
        self._engine_id = engine_id
        self._status = status
        self._on_router_silent = on_router_silent
        self._config = config
        self._clock = clock
        self._silence = SilenceDetector(config.silence_timeout_s)
        self._links: dict[str, RouterLink] = {}
        self._flush_scheduled = False
        self._context: Context | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def router_ids(self) -> frozenset[str]:
        """The attached routers that are not silent."""
        return frozenset(router_id for router_id, link in self._links.items() if link.silent_since is None)

    def mark(self, router_id: str) -> int | None:
        """A mark for `acknowledged_since`, set now; None when the router is not attached."""
        link = self._links.get(router_id)
        return None if link is None else link.mark

    def acknowledged_since(self, router_id: str, mark: int) -> bool:
        """Whether a router certainly lived on after `mark` was set, and has taken all that was sent before: it has
        acknowledged a later report. No clock is involved, so that a process that stalls draws no wrong conclusion."""
        link = self._links.get(router_id)
        return link is not None and link.acknowledged_since(mark)

    def attach(self, endpoint: ChannelEndpoint) -> None:
        """Connect to a router and report to it from now on. Call it on the event loop.

        Attaching the same endpoint again changes nothing; another endpoint of the same router replaces the old one.
        Raises `UnsupportedVersion` when the router speaks another version of the protocol.
        """
        check_version(endpoint.version)
        router_id = endpoint.router_id
        known = self._links.get(router_id)
        if self._closed or (known is not None and known.endpoint == endpoint):
            return
        if known is not None:
            self._detach(known)
        if self._context is None:
            self._context = zmq.Context()
            self._schedule_tick()
        link = RouterLink(self._context, endpoint, self._engine_id, self._config, self.stats, self._on_ack)
        self._links[router_id] = link
        now = self._clock()
        self._silence.heard(router_id, now)
        self._flush(link, now)

    def send(self, router_id: str, stream_id: int, attempt: int, seq: int, event: StreamEvent) -> None:
        """Send one event with this turn of the event loop. Never blocks or raises.

        Events for routers that are unknown, silent or too slow are dropped and counted in `stats`.
        """
        link = self._links.get(router_id)
        if link is None:
            self.stats.dropped_events += 1
            return
        link.pending.append((stream_id, attempt, seq, event))
        if len(link.pending) >= self._config.max_batch_events:
            self._flush(link, self._clock())
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_pending)

    def tick(self, now: float) -> None:
        """Report what changed or is due, and tell of routers gone silent. Called by the sender's own timer."""
        for link in self._links.values():
            link.read_acks()
        for router_id in self._silence.sweep(now):
            self._links[router_id].silent_since = now
            _logger.warning("token channel: router %s is silent", router_id)
            try:
                self._on_router_silent(router_id)
            except Exception:
                _logger.exception("token channel: on_router_silent failed")
        for link in list(self._links.values()):
            if link.silent_since is not None and now - link.silent_since >= self._config.forget_router_after_s:
                _logger.warning("token channel: forgetting router %s", link.endpoint.router_id)
                self._detach(link)
            elif self._must_report(link, now):
                self._flush(link, now)

    async def close(self) -> None:
        """Send what is pending, for half a second at most, and disconnect. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._flush_pending()
        for link in self._links.values():
            link.close(linger=link.silent_since is None)
        self._links.clear()
        if self._context is not None:
            await asyncio.to_thread(self._context.term)

    def _schedule_tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._config.status_interval_s, self._run_tick)

    def _run_tick(self) -> None:
        self._schedule_tick()
        self.tick(self._clock())

    def _may_report(self, link: RouterLink, now: float) -> bool:
        return now - link.report_sent_at > self._config.status_interval_s * _TIMER_TOLERANCE

    def _must_report(self, link: RouterLink, now: float) -> bool:
        """Whether a heartbeat would come too late with the next tick, or the status is another than the last sent."""
        next_tick = now + self._config.status_interval_s
        if next_tick >= link.report_sent_at + self._config.heartbeat_interval_s:
            return True
        return self._may_report(link, now) and self._report() != link.report

    def _report(self) -> EngineStatus | None:
        try:
            return self._status()
        except Exception:
            _logger.exception("token channel: the engine's status failed")
            return None

    def _flush_pending(self) -> None:
        self._flush_scheduled = False
        now = self._clock()
        for link in self._links.values():
            if link.pending:
                self._flush(link, now)

    def _flush(self, link: RouterLink, now: float) -> None:
        try:
            link.flush(now, self._report() if self._may_report(link, now) else None)
        except Exception:
            _logger.exception("token channel: sending to router %s failed", link.endpoint.router_id)

    def _on_ack(self, router_id: str) -> None:
        self._silence.heard(router_id, self._clock())
        link = self._links[router_id]
        if link.silent_since is not None:
            link.silent_since = None
            _logger.warning("token channel: router %s is back", router_id)

    def _detach(self, link: RouterLink) -> None:
        link.close(linger=False)
        del self._links[link.endpoint.router_id]
        self._silence.forget(link.endpoint.router_id)
