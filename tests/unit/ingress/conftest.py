from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest
import uvicorn

from serve_app.ingress.api import build_api
from serve_app.ingress.config import IngressConfig
from tests.support.fake_router import FakeRouter, speak
from tests.support.openapi_check import CheckedApi, OpenApiCheck
from tests.unit.ingress.hanging_script import HANGING


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter([speak("Hel", "lo")])


@pytest.fixture
def hanging() -> FakeRouter:
    """Each stream says one token and then nothing for ever."""
    return FakeRouter([HANGING])


@pytest.fixture
def config() -> IngressConfig:
    return IngressConfig(max_body_bytes=10_000, max_n=4, max_prompts=3)


@pytest.fixture
def answers() -> Iterator[OpenApiCheck]:
    """Holds every answer of the test to `/openapi.json`."""
    check = OpenApiCheck()
    yield check
    check.verify()


@pytest.fixture
async def http(router: FakeRouter, config: IngressConfig, answers: OpenApiCheck) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API in this process: no sockets."""
    api = CheckedApi(build_api(lambda: router, config, clock=router.clock), answers)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def base_url(router: FakeRouter, config: IngressConfig, answers: OpenApiCheck) -> AsyncIterator[str]:
    """The API behind uvicorn on a free loopback port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        api = CheckedApi(build_api(lambda: router, config, clock=router.clock), answers)
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        await serving


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="secret", max_retries=0) as client:
        yield client
