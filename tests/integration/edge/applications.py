"""One application at `/`, as browsers and proxies see it."""

from __future__ import annotations

from serve_app.ingress.config import IngressConfig
from tests.support.applications import application, model

STEP_S = 0.05
FASTER = 15
"""How much faster than by default a stream that waits says that it is there."""

EDGE = {
    **application(
        "edge",
        [
            model("steady", concurrency=32, step_s=STEP_S, max_model_len=65_536),
            model("narrow", concurrency=2, step_s=0.02),
        ],
        router={
            "admission": {
                "bands": {"default": {"requests": 6}},
                "when_full": "refuse",
                "queue_timeout_s": 300.0,  # a first token after a minute is waited for here
            }
        },
        ingress={
            "header_hold_s": IngressConfig().header_hold_s / FASTER,
            "keepalive_s": IngressConfig().keepalive_s / FASTER,
        },
    ),
    "route_prefix": "/",
}
"""The first model has places for all; the second runs two, and lets a few more wait. One router, so that nobody finds a
place at another one."""
