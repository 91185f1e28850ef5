from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from serve_app.ingress.config import IngressConfig
from serve_app.ingress.http_api import build_api
from tests.support.fake_router import FakeRouter, speak


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter([speak("Hel", "lo")])


@pytest.fixture
def config() -> IngressConfig:
    return IngressConfig(max_body_bytes=10_000, max_n=4, max_prompts=3)


@pytest.fixture
async def http(router: FakeRouter, config: IngressConfig) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API in this process: no sockets."""
    api = build_api(lambda: router, config, clock=router.clock)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
