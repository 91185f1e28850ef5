"""Settings of the HTTP ingress."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from serve_app.ingress.grpc.config import GrpcConfig
from serve_app.ingress.websocket.config import WebSocketConfig
from serve_app.openai_api.schema import MAX_PROMPTS

Origin = Annotated[str, Field(pattern=r"^(\*|null|https?://[^/\s]+)$")]
"""As browsers send it: scheme, host and port, without a slash at the end."""


class IngressConfig(BaseModel):
    """Bounds and timings of the HTTP ingress; the defaults suit a public endpoint behind a proxy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: Annotated[int, Field(gt=0)] = 8 * 1024 * 1024
    """Largest request body in bytes; larger ones get 413. A million tokens of text take about 4 MiB, up to twice that
    where a client writes other scripts as escapes. Reading one MiB of text holds the router for 2 ms at a time: a body
    of the default size costs other streams no more than a late token or two, one of 64 MiB a pause that users see."""
    max_bytes_under_way: Annotated[int, Field(gt=0)] = 256 * 1024 * 1024
    """Bytes of all requests that one router reads at a time, by HTTP, WebSocket and gRPC together, until they are
    parsed: from then on the waiting queue bounds them. One more gets 429 `router_busy` with `Retry-After`; the last
    quarter is kept for requests up to 64 KiB. Parsing takes a small multiple of one body at a time on top. Lower it
    where routers have less than a gigabyte each."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds within which the body must have arrived, so that slow senders hold nothing for ever."""
    max_n: Annotated[int, Field(gt=0)] = 16
    """Largest `n`: each choice is a generation of its own in the engine's batch."""
    max_prompts: Annotated[int, Field(gt=0, le=MAX_PROMPTS)] = 64
    """Most prompts in one `/v1/completions` request; each is admitted as a request of its own."""
    header_hold_s: Annotated[float, Field(ge=0.1)] = 10.0
    """Seconds for which a streaming response waits for its first token before it sends status 200. Longer keeps more
    errors truthful, but proxies and browsers cut connections that stay silent."""
    keepalive_s: Annotated[float, Field(ge=0.1)] = 15.0
    """Seconds of silence in a stream after which a comment line is sent; proxies commonly cut at 30 or 60."""
    queue_look_s: Annotated[float, Field(ge=0.1)] = 1.0
    """Seconds between looks at the queue for a streaming request that waits after its headers were sent: its client
    hears of a new place this late."""
    write_stall_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for which one write may make no progress, because the client does not read, before the stream is cut."""
    allowed_origins: frozenset[Origin] = frozenset()
    """Pages of other hosts that may use this server from a browser, as `https://app.example.com`, with the port if the
    address has one; `*` lets every page do so. Pages of the same host always may. Others can neither read answers nor
    open sockets. Also needed where a proxy in front changes the `Host` of requests: then it is the proxy's address."""
    get_streams: bool = True
    """Whether `GET /stream` and `GET /v1/chat/completions/stream` exist. They generate, and what fetches links (chat
    programs, mail scanners) would make them. Browsers that are made to fetch one by another site's page are refused."""
    grpc: GrpcConfig = GrpcConfig()
    """Bounds of gRPC calls; `max_body_bytes`, `keepalive_s` and `resume_grace_s` hold for them as well."""
    websocket: WebSocketConfig = WebSocketConfig()
    """Bounds of sockets; `write_stall_s` and `keepalive_s` hold for them as well."""
    resume_grace_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds for which a generation goes on with nobody reading, when its client asked for a stream that can be
    resumed: long enough to change networks or to reload a page. Longer computes more for clients that stay away."""
