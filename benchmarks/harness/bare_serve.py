"""A Serve application that does nothing: what a stream costs on Serve before anybody's own code is called.

Its ingress answers with an event stream, with no web framework, that says something every other second; if so
configured it holds a handle call for as long, as an application does that lets Serve count what its engines run.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import Receive, Scope, Send

MODEL = "nothing"


class Engine:
    """Replicas that only hold calls."""

    async def hold(self) -> None:
        """Until it is cancelled."""
        await asyncio.Event().wait()


class _Streams:
    """The ASGI application."""

    engines: DeploymentHandle | None = None
    step_s = 2.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        more = json.loads(body or b"{}").get("max_tokens", 1) > 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": more})
        del body, message
        call = None
        if more and self.engines is not None:
            call = contextvars.Context().run(self.engines.hold.remote)
        try:
            while more:
                await asyncio.sleep(self.step_s)
                await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        finally:
            if call is not None:
                call.cancel()


def build_app(args: dict[str, Any]) -> serve.Application:
    """`args` has `streams`, the places that deployments have, `step_s`, and `holds_calls`."""
    places = args["streams"]

    @serve.ingress(_Streams())
    class Router:
        def __init__(self, engines: DeploymentHandle) -> None:
            _Streams.step_s = args["step_s"]
            if args["holds_calls"]:
                _Streams.engines = engines.options(request_serialization="pickle", response_serialization="pickle")

    quiet = {"enable_access_log": False}
    engine = serve.deployment(Engine).options(name="Engine", max_ongoing_requests=places + 32, logging_config=quiet)
    router = serve.deployment(Router).options(name="Router", max_ongoing_requests=places + 32, logging_config=quiet)
    application: serve.Application = router.bind(engine.bind())
    return application
