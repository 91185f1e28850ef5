"""Writes a stream's events into an HTTP response the moment the router has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.core.events import StreamEvent
from serve_app.core.interfaces import TokenStream
from serve_app.ingress.delivery.direct_delivery import Delivery, DirectDelivery
from serve_app.ingress.http.client_watch import ClientWatch


class DirectWriter(DirectDelivery):
    """The delivery of an HTTP response whose headers are sent."""

    def __init__(
        self, stream: TokenStream, write: Callable[[Sequence[StreamEvent]], bytes], client: ClientWatch
    ) -> None:
        """`write` gives the body bytes for events; empty when there is nothing to send."""

        def deliver(events: Sequence[StreamEvent]) -> Delivery | None:
            body = write(events)
            return client.send_now({"type": "http.response.body", "body": body, "more_body": True}) if body else None

        super().__init__(stream, deliver)
