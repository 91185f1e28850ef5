"""The blocking client.

with Client("http://127.0.0.1:8000") as client:
    for token in client.stream("Tell me a story."):
        print(token, end="", flush=True)
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
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

Sleep = Callable[[float], None]


class Client:
    """`AsyncClient` without asyncio: the same methods, and the same answers to everything that goes wrong.

    For one thread. A connection on which nothing comes, not even a comment, is noticed by the socket's own timeout,
    which can be set only once: after `stall_timeout_s`, but where that is shorter than 20 s perhaps only then.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        config: ClientConfig | None = None,
        http: httpx.Client | None = None,
        rng: random.Random | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = time.sleep,
    ) -> None:
        """`base_url` may end in `/v1`. `http` brings proxies or certificates; it stays the caller's to close."""
        self._endpoint = Endpoint(base_url, api_key, config or ClientConfig(), rng or random.Random(), clock)
        self._http = http or httpx.Client()
        self._owns_http = http is None
        self._sleep = sleep
        self._first_model: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        if self._owns_http:
            self._http.close()

    def stream(self, prompt: Prompt, **options: Unpack[AskOptions]) -> AnswerStream:
        """The answer as it is generated. Nothing is sent before the first token is asked for."""
        return AnswerStream(self, chat_request(prompt, **options))

    def ask(self, prompt: Prompt, **options: Unpack[AskOptions]) -> Answer:
        """The whole answer; it is streamed all the same, so that a cut costs nothing."""
        with self.stream(prompt, **options) as stream:
            for _ in stream:
                pass
        return stream.answer

    def models(self) -> list[str]:
        """Ids of the served models."""
        endpoint, retries = self._endpoint, self._endpoint.retries()
        retries.start()
        try:
            while True:
                self._wait(retries.pause_s)
                try:
                    response = self._http.get(
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

    def _model(self) -> str:
        if self._first_model is None:
            self._first_model = first_model(self.models())
        return self._first_model

    def _cancel(self, stream_id: str | None, headers: dict[str, str]) -> None:
        """Tell the server that nobody will come back for the stream."""
        if self._http.is_closed:
            return
        with suppress(httpx.HTTPError):
            url = self._endpoint.stream_url(stream_id)
            headers = headers | self._endpoint.authorization
            self._http.delete(url, headers=headers, timeout=CANCEL_TIMEOUT_S)

    def _wait(self, pause_s: Callable[[float], float]) -> None:
        while (pause := pause_s(self._endpoint.clock())) > 0:
            self._sleep(pause)


class AnswerStream:
    """One answer: iterate it once.

    Leaving early cancels the generation on the server: at once within `with`, otherwise when the iterator is garbage.
    """

    def __init__(self, client: Client, request: ChatRequest) -> None:
        self._client = client
        self._session = client._endpoint.session(request)
        self._tokens = _read(client, request, self._session)

    def __iter__(self) -> Iterator[Token]:
        return self._tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream, and its generation if it still runs. Idempotent."""
        self._tokens.close()

    @property
    def answer(self) -> Answer:
        """The answer as far as it has come."""
        return self._session.answer(self._client._endpoint.clock())

    @property
    def queue_position(self) -> int | None:
        """Requests ahead in the server's queue; None when it runs or the server does not tell."""
        return self._session.queue_position


def _read(client: Client, request: ChatRequest, session: AnswerSession) -> Generator[Token, None, None]:
    """The tokens of one answer. It knows nothing of the stream object, so that one left alone is garbage at once."""
    clock = client._endpoint.clock
    session.start(clock())
    try:
        body = request.encoded(request.model or client._model())
        while not session.ended:
            client._wait(session.pause_s)
            response: httpx.Response | None = None
            try:
                session.connecting(clock())
                response = _send(client, session, body)
                pieces = response.iter_bytes()
                while not session.ended:
                    yield from session.feed(_piece(client, session, pieces), clock())
                    session.check(clock())
            except httpx.RequestError as error:
                session.broke(client._endpoint.unreachable(error), clock())
            except ClientError as error:
                session.broke(error, clock())
            finally:
                if response is not None:
                    response.close()
        yield session.last_token
    finally:
        session.close()
        if (headers := session.left_behind) is not None:
            client._cancel(session.stream_id, headers)


def _send(client: Client, session: AnswerSession, body: bytes) -> httpx.Response:
    """Send the request and return the response, its headers read and its status 200."""
    endpoint, http = client._endpoint, client._http
    headers = endpoint.authorization | session.headers(endpoint.clock())
    request = http.build_request(
        "POST", endpoint.chat_url, content=body, headers=headers, timeout=endpoint.connect_only
    )
    timeouts = request.extensions["timeout"]
    timeouts["read"] = timeouts["write"] = session.time_left_s(endpoint.clock())
    try:
        response = http.send(request, stream=True)
        if not is_stream(response):
            try:
                response.read()
            finally:
                response.close()
    except httpx.ReadTimeout:
        session.timed_out(endpoint.clock())
    if not is_stream(response):
        raise refusal(response)
    session.connected(response.headers)
    # httpx reads this again when the body is read for the first time, and never after.
    timeouts["read"] = session.longest_silence_s(endpoint.clock())
    return response


def _piece(client: Client, session: AnswerSession, pieces: Iterator[bytes]) -> bytes:
    clock = client._endpoint.clock
    session.reading(clock())
    try:
        return next(pieces)
    except httpx.ReadTimeout:
        session.gone_silent(clock())
    except StopIteration:
        raise Unreachable("The connection ended before the answer did.") from None
