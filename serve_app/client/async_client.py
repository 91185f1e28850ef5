"""The client for asyncio.

async with AsyncClient("http://127.0.0.1:8000") as client:
    async for token in client.stream("Tell me a story."):
        print(token, end="", flush=True)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, Unpack

import httpx

from serve_app.client.chat_request import AskOptions, ChatRequest, Prompt, chat_request
from serve_app.client.config import ClientConfig
from serve_app.client.endpoint import CANCEL_TIMEOUT_S, DEFAULT_URL, Endpoint, first_model, is_stream, refusal
from serve_app.client.errors import ClientError, Unreachable
from serve_app.client.events import Answer, Token
from serve_app.client.session import AnswerSession
from serve_app.core.interfaces import Clock


class AsyncClient:
    """Asks one server, and gets whole answers although connections break and servers refuse.

    Safe to use from many tasks of one event loop; they share connections and the retry budget. Every method may raise
    any `ClientError`.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        config: ClientConfig | None = None,
        http: httpx.AsyncClient | None = None,
        rng: random.Random | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """`base_url` may end in `/v1`. `http` brings proxies or certificates; it stays the caller's to close.
        `clock` must agree with the event loop's time."""
        self._endpoint = Endpoint(base_url, api_key, config or ClientConfig(), rng or random.Random(), clock)
        self._http = http or httpx.AsyncClient(limits=httpx.Limits(max_connections=None))
        self._owns_http = http is None
        self._first_model: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        if self._owns_http:
            await self._http.aclose()

    def stream(self, prompt: Prompt, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """The answer as it is generated. Nothing is sent before the first token is asked for."""
        return AsyncAnswerStream(self, chat_request(prompt, **options))

    async def ask(self, prompt: Prompt, **options: Unpack[AskOptions]) -> Answer:
        """The whole answer; it is streamed all the same, so that a cut costs nothing."""
        async with self.stream(prompt, **options) as stream:
            async for _ in stream:
                pass
        return stream.answer

    async def models(self) -> list[str]:
        """Ids of the served models."""
        endpoint, retries = self._endpoint, self._endpoint.retries()
        retries.start()
        try:
            while True:
                await _wait(retries.pause_s, endpoint.clock)
                try:
                    response = await self._http.get(
                        endpoint.models_url,
                        headers=endpoint.authorization,
                        timeout=endpoint.config.first_token_timeout_s,
                    )
                    return endpoint.model_ids(response)
                except httpx.RequestError as error:
                    retries.failed(endpoint.unreachable(error), True, endpoint.clock())
                except ClientError as error:
                    retries.refused(error, endpoint.clock())
        finally:
            retries.close()

    async def _model(self) -> str:
        if self._first_model is None:
            self._first_model = first_model(await self.models())
        return self._first_model

    async def _cancel(self, stream_id: str | None, headers: dict[str, str]) -> None:
        """Tell the server that nobody will come back for the stream."""
        if self._http.is_closed:
            return
        with suppress(httpx.HTTPError):
            url = self._endpoint.stream_url(stream_id)
            headers = headers | self._endpoint.authorization
            await self._http.delete(url, headers=headers, timeout=CANCEL_TIMEOUT_S)


class AsyncAnswerStream:
    """One answer, read by one task: iterate it once.

    Leaving early cancels the generation on the server: at once within `async with`, otherwise when the iterator is
    garbage.
    """

    def __init__(self, client: AsyncClient, request: ChatRequest) -> None:
        self._client = client
        self._session = client._endpoint.session(request)
        self._tokens = _read(client, request, self._session)

    def __aiter__(self) -> AsyncIterator[Token]:
        return self._tokens

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream, and its generation if it still runs. Idempotent."""
        await self._tokens.aclose()

    @property
    def answer(self) -> Answer:
        """The answer as far as it has come."""
        return self._session.answer(self._client._endpoint.clock())

    @property
    def queue_position(self) -> int | None:
        """Requests ahead in the server's queue; None when it runs or the server does not tell."""
        return self._session.queue_position


async def _read(client: AsyncClient, request: ChatRequest, session: AnswerSession) -> AsyncGenerator[Token, None]:
    """The tokens of one answer. It knows nothing of the stream object, so that one left alone is garbage at once."""
    clock = client._endpoint.clock
    session.start(clock())
    try:
        body = request.encoded(request.model or await client._model())
        while not session.ended:
            await _wait(session.pause_s, clock)
            response: httpx.Response | None = None
            try:
                session.connecting(clock())
                response = await _send(client, session, body)
                pieces = response.aiter_bytes()
                while not session.ended:
                    for token in session.feed(await _piece(client, session, pieces), clock()):
                        yield token
                    session.check(clock())
            except httpx.RequestError as error:
                session.broke(client._endpoint.unreachable(error), clock())
            except ClientError as error:
                session.broke(error, clock())
            finally:
                if response is not None:
                    await response.aclose()
        yield session.last_token
    finally:
        session.close()
        if (headers := session.left_behind) is not None:
            await client._cancel(session.stream_id, headers)


async def _send(client: AsyncClient, session: AnswerSession, body: bytes) -> httpx.Response:
    """Send the request and return the response, its headers read and its status 200."""
    endpoint, http = client._endpoint, client._http
    headers = endpoint.authorization | session.headers(endpoint.clock())
    request = http.build_request(
        "POST", endpoint.chat_url, content=body, headers=headers, timeout=endpoint.connect_only
    )
    try:
        async with asyncio.timeout(session.time_left_s(endpoint.clock())):
            response = await http.send(request, stream=True)
            if not is_stream(response):
                try:
                    await response.aread()
                finally:
                    await response.aclose()
    except TimeoutError:
        session.timed_out(endpoint.clock())
    if not is_stream(response):
        raise refusal(response)
    session.connected(response.headers)
    return response


async def _piece(client: AsyncClient, session: AnswerSession, pieces: AsyncIterator[bytes]) -> bytes:
    clock = client._endpoint.clock
    session.reading(clock())
    try:
        async with asyncio.timeout(session.time_left_s(clock())):
            return await anext(pieces)
    except TimeoutError:
        session.timed_out(clock())
    except StopAsyncIteration:
        raise Unreachable("The connection ended before the answer did.") from None


async def _wait(pause_s: Callable[[float], float], clock: Clock) -> None:
    while (pause := pause_s(clock())) > 0:  # noqa: ASYNC110  time passes, nothing happens
        await asyncio.sleep(pause)
