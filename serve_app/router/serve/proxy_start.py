"""What Serve's processes need before they listen: named to Serve by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`.

Serve calls it where it starts a proxy, and behind HAProxy also where a replica starts its own HTTP server.
"""

from __future__ import annotations

from typing import Any

from serve_app.router.serve import uvicorn_protocol
from serve_app.router.serve.ray_private import listen_on_loopback


def speak_http() -> list[Any]:
    """Mend uvicorn. Returns the middlewares to add: none."""
    uvicorn_protocol.install()
    return []


def prepare() -> list[Any]:
    """Mend uvicorn and keep local ports local. Returns the middlewares to add: none."""
    uvicorn_protocol.install()
    return listen_on_loopback()
