"""Where the server is, and what the asynchronous and the blocking client have in common."""

from __future__ import annotations

import json
import random
import secrets
import time
from dataclasses import dataclass, field

import httpx

from serve_app.client.chat_request import ChatRequest
from serve_app.client.config import ClientConfig
from serve_app.client.errors import ClientError, ServerFailed, Unreachable
from serve_app.client.retries import Retries
from serve_app.client.server_errors import error_of_response
from serve_app.client.session import AnswerSession
from serve_app.core.interfaces import Clock
from serve_app.resilience.retry_budget import RetryBudget

DEFAULT_URL = "http://127.0.0.1:8000"
CANCEL_TIMEOUT_S = 2.0
"""Telling the server that an answer is not wanted any more is a courtesy: it ends by itself after its grace time."""
_OK = 200


@dataclass(slots=True)
class Endpoint:
    """One server as one client sees it. Not shared between threads: its answers share the retry budget."""

    base_url: str
    api_key: str | None
    config: ClientConfig
    rng: random.Random = field(default_factory=random.Random)
    clock: Clock = time.monotonic
    budget: RetryBudget = field(init=False)

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/").removesuffix("/v1")
        self.budget = RetryBudget(self.config.retry.budget)

    @property
    def chat_url(self) -> str:
        return f"{self.base_url}/v1/chat/completions"

    @property
    def models_url(self) -> str:
        return f"{self.base_url}/v1/models"

    def stream_url(self, stream_id: str | None) -> str:
        return f"{self.base_url}/v1/streams" + ("" if stream_id is None else f"/{stream_id}")

    @property
    def authorization(self) -> dict[str, str]:
        """The header that names the tenant."""
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}

    @property
    def connect_only(self) -> httpx.Timeout:
        """Bounds connecting; everything else is bounded by the session's own timers."""
        return httpx.Timeout(None, connect=self.config.connect_timeout_s)

    def retries(self) -> Retries:
        return Retries(self.config, self.budget, self.rng)

    def session(self, request: ChatRequest) -> AnswerSession:
        return AnswerSession(request, self.config, self.retries(), new_key=lambda: secrets.token_hex(16))

    def unreachable(self, error: httpx.RequestError) -> ClientError:
        """What a broken or impossible connection means."""
        return Unreachable(f"{self.base_url} cannot be reached: {str(error) or type(error).__name__}")

    def model_ids(self, response: httpx.Response) -> list[str]:
        """The served models, as `GET /v1/models` answered. Raises `ServerError`."""
        if response.status_code != _OK:
            raise error_of_response(response.status_code, response.headers, response.content)
        try:
            return [str(card["id"]) for card in json.loads(response.content)["data"]]
        except (ValueError, KeyError, TypeError) as error:
            message = f"{self.models_url} did not answer with a list of models."
            raise ServerFailed(message, response.status_code) from error


def first_model(models: list[str]) -> str:
    """The model that is asked when none is named. Raises `ServerFailed` when there is none."""
    if not models:
        raise ServerFailed("The server serves no model.", _OK)
    return models[0]


def is_stream(response: httpx.Response) -> bool:
    """Whether the body is the answer's stream."""
    return response.status_code == _OK


def refusal(response: httpx.Response) -> ClientError:
    """What a status other than 200 stands for; its body has been read."""
    return error_of_response(response.status_code, response.headers, response.content)
