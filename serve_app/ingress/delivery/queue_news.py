"""When a client that hears nothing is told that its request lives, and how many are ahead of it: on every protocol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class QueueNews:
    """Of one request. Clock readings and times are in seconds.

    news = QueueNews(config.keepalive_s, clock())
    while (events := await stream.next(look_s)) is not None:
        if not events and news.due(stream.queue_position, clock()):
            await tell(news.place)
    """

    keepalive_s: float
    """A silence of this length is broken in any case: proxies cut connections that say nothing."""
    told_at: float
    """When the client heard of us last."""
    place: int | None = None
    """The requests ahead at the last look; None for one that does not wait."""

    def due(self, place: int | None, now: float) -> bool:
        """Look at the queue: whether the client is to be told now, which is then taken for done."""
        moved = place is not None and place != self.place
        self.place = place
        if not moved and now - self.told_at < self.keepalive_s:
            return False
        self.told_at = now
        return True
