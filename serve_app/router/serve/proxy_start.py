"""What Serve's processes need before they listen: named to Serve by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`.

Serve calls it where it starts a proxy, and behind HAProxy also where a replica starts its own HTTP server.
"""

from __future__ import annotations

from typing import Any

from serve_app.router.serve import uvicorn_protocol
from serve_app.router.serve.ray_private import bound_grpc_messages, listen_on_loopback


def speak_http() -> list[Any]:
    """Mend uvicorn and bound gRPC messages. Returns the middlewares to add: none."""
    uvicorn_protocol.install()
    bound_grpc_messages()
    return []


def prepare() -> list[Any]:
    """And keep local ports local."""
    speak_http()
    return listen_on_loopback()
