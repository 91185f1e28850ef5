"""One answer across all the connections it takes: what to send next, and what has arrived."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from serve_app.client.chat_request import ChatRequest
from serve_app.client.config import ClientConfig
from serve_app.client.errors import (
    ClientError,
    DeadlineExceeded,
    FirstTokenTimeout,
    ServerError,
    StallTimeout,
    StreamLost,
    Unreachable,
)
from serve_app.client.events import Answer, Token, Usage
from serve_app.client.retries import Retries
from serve_app.client.server_errors import error_of_event
from serve_app.client.sse_reader import SseComment, SseEvent, SseReader

_NOT_FOUND = 404
_COMMENT_WITHIN_S = 20.0
"""Our server sends a comment after 15 s of silence."""
_DEADLINE_EXCEEDED = "deadline_exceeded"
_DONE = "[DONE]"
_QUEUED = "queued "


class AnswerSession:
    """Pure: the caller moves the bytes, waits and tells the time. Used by one reader, in this order:

    `start`; wait `pause_s`, `connecting`, send with `headers`, `connected`, and for each piece `reading`, `feed`,
    `check`; `broke` when the connection ends or anything fails, and over again until `ended`; `close`.
    """

    def __init__(
        self, request: ChatRequest, config: ClientConfig, retries: Retries, new_key: Callable[[], str]
    ) -> None:
        """`new_key` makes unguessable idempotency keys."""
        self._request = request
        self._config = config
        self._retries = retries
        self._new_key = new_key
        self._key = new_key()
        self._sse = SseReader()
        self._asked_at = 0.0
        self._deadline_at: float | None = None
        self._reading_since = 0.0
        self._waited_s = 0.0
        self._first_text_at: float | None = None
        self._ended_at: float | None = None
        self._connections = 0
        self._parts: list[str] = []
        self._last_id: str | None = None
        self._failure: ClientError | None = None
        self._failed_code: str | None = None
        self.stream_id: str | None = None
        """The server's name for the stream; None when it does not keep it."""
        self.position: int | None = None
        """Output tokens whose text has arrived; None when the server does not number them."""
        self.queue_position: int | None = None
        """Requests ahead in the server's queue; None when it runs or the server does not tell."""
        self.model = request.model or ""
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.ended = False
        self._under_way = False

    @property
    def left_behind(self) -> dict[str, str] | None:
        """Headers by which the server finds what it still computes if the reader leaves now; None: nothing."""
        if self.ended or (self.stream_id is None and not self._under_way):
            return None
        return {"idempotency-key": self._key}

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew."""
        return max(self._connections - 1, 0)

    @property
    def last_token(self) -> Token:
        """What tells the reader how the stream ended."""
        return Token("", self.position, self.finish_reason, self.usage)

    def answer(self, now: float) -> Answer:
        """The answer as it stands."""
        end = now if self._ended_at is None else self._ended_at
        ttft_s = None if self._first_text_at is None else self._first_text_at - self._asked_at
        return Answer(
            self.text, self.finish_reason, self.usage, self.model, ttft_s, end - self._asked_at, self.reconnects
        )

    def start(self, now: float) -> None:
        """The answer is asked for. Call `close` afterwards, however it ends."""
        self._asked_at = now
        if self._request.deadline_s is not None:
            self._deadline_at = now + self._request.deadline_s
        self._retries.start(self._deadline_at)

    def pause_s(self, now: float) -> float:
        """Seconds to wait before the next attempt; 0 when it may begin, otherwise ask again after the wait."""
        return self._retries.pause_s(now)

    def connecting(self, now: float) -> None:
        """An attempt begins."""
        self._under_way = True
        self._sse = SseReader()
        self._failure = None
        self._reading_since = now
        self._waited_s = 0.0
        self._connections += 1

    def headers(self, now: float) -> dict[str, str]:
        """Headers of the attempt. Raises `DeadlineExceeded`."""
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "x-stream-resume": "true",
            "idempotency-key": self._key,
            # "0" spares the server a search for a stream that was never begun.
            "x-retry-count": str(max(0, self._connections - 1)),
            # The stream's id and its place in the queue are wanted soon; errors may be events.
            "prefer": "wait=1",
        }
        if self._request.priority is not None:
            headers["x-priority"] = self._request.priority
        if self._deadline_at is not None:
            left_ms = int((self._deadline_at - now) * 1000)
            if left_ms <= 0:
                raise self._deadline_exceeded()
            headers["x-deadline-ms"] = str(left_ms)
        if self._last_id is not None:
            headers["last-event-id"] = self._last_id
        return headers

    def connected(self, headers: Mapping[str, str]) -> None:
        """Status 200 came. Names in `headers` are lower case."""
        self._retries.answered()
        if (stream_id := headers.get("x-stream-id")) is not None:
            self.stream_id = stream_id
            self._last_id = self._last_id or f"{stream_id}.0"

    def reading(self, now: float) -> None:
        """The caller begins to wait for the next piece: only such time counts as a stall, not what the reader takes."""
        self._reading_since = now

    def feed(self, data: bytes, now: float) -> Sequence[Token]:
        """What a piece of the body brought; `check` it afterwards."""
        self._waited_s += now - self._reading_since
        self._reading_since = now
        tokens: list[Token] = []
        try:
            for event in self._sse.feed(data):
                if self.ended:
                    break
                if isinstance(event, SseComment):
                    self._comment(event.text)
                elif (token := self._event(event, now)) is not None:
                    tokens.append(token)
        except ServerError as error:
            self._failure = error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._failure = Unreachable(f"The server sent what is no chat stream: {error!r}")
        return tokens

    def time_left_s(self, now: float) -> float:
        """Seconds for which to go on waiting, at least 0: then call `timed_out`."""
        left_s = self._patience_s - self._waited_s - (now - self._reading_since)
        if self._deadline_at is not None:
            left_s = min(left_s, self._deadline_at - now)
        return max(left_s, 0.0)

    def longest_silence_s(self, now: float) -> float:
        """For callers that can bound the silence of a connection only once: what no living connection reaches.

        Servers send comments while there are no tokens; on a connection without any for so long, call `gone_silent`.
        """
        longest_s = max(self._config.stall_timeout_s, min(self.time_left_s(now), _COMMENT_WITHIN_S))
        return longest_s if self._deadline_at is None else max(min(longest_s, self._deadline_at - now), 0.0)

    def gone_silent(self, now: float) -> NoReturn:
        """Raise the timeout that is due, or that the connection is dead."""
        self._waited_s += now - self._reading_since
        self._reading_since = now
        self.check(now)
        raise Unreachable("The connection fell silent.")

    def check(self, now: float) -> None:
        """Raise what the last piece told of a failure, or the timeout that is due."""
        if self._failure is not None:
            raise self._failure
        overdue = self._deadline_at is not None and now >= self._deadline_at
        if not self.ended and (overdue or self._waited_s >= self._patience_s):
            self.timed_out(now)

    def timed_out(self, now: float) -> NoReturn:
        """Raise the timeout that the waiting ended in."""
        if self._deadline_at is not None and now >= self._deadline_at:
            raise self._deadline_exceeded()
        if self._parts:
            raise StallTimeout(f"No further token came for {self._patience_s:g} s.")
        raise FirstTokenTimeout(f"No first token came for {self._patience_s:g} s.")

    def broke(self, error: ClientError, now: float) -> None:
        """The attempt failed, or its connection ended before the answer did. Raises when there is to be no other.

        An answer of which only the usage is missing then counts as ended.
        """
        self._under_way = False
        try:
            self._broke(error, now)
        except ClientError:
            if self.finish_reason is None:
                raise
            self._end(now)

    def close(self) -> None:
        """Give back what the session holds of the shared budget. Idempotent."""
        self._retries.close()

    def _broke(self, error: ClientError, now: float) -> None:
        if isinstance(error, DeadlineExceeded):
            raise error
        if self._deadline_at is not None and (now >= self._deadline_at or _is_deadline(error)):
            raise self._deadline_exceeded() from error
        if isinstance(error, ServerError):
            self._server_said_no(error)
        elif self._parts and self._last_id is None:
            message = f"The connection broke after {len(self.text)} characters, and the server does not resume streams."
            raise StreamLost(message) from error
        self._retries.failed(error, costly=self._last_id is None, now=now)

    def _server_said_no(self, error: ServerError) -> None:
        """Raises when it is final; otherwise decides whether the next attempt resumes or begins anew."""
        resuming = self._last_id is not None
        gone = resuming and error.status == _NOT_FOUND
        if gone and self._parts:
            raise StreamLost(f"The answer broke off, and the server cannot go on with it: {error.message}") from error
        if not gone and (not error.should_retry or (self._parts and not resuming)):
            raise error
        if self._parts and error is self._failure:
            # Another router may still go on with it; when it says the same, nothing can.
            if error.code == self._failed_code:
                raise error
            self._failed_code = error.code
        if not self._parts and error.code is not None:
            # The application itself said how that attempt ended: the same key would only bring the same answer.
            self._key, self._last_id, self.stream_id = self._new_key(), None, None

    def _event(self, event: SseEvent, now: float) -> Token | None:
        if event.data == _DONE:
            self._end(now)
            return None
        document = {} if event.event == "error" else json.loads(event.data)
        if event.event == "error" or "error" in document:
            raise error_of_event(event.data, event.retry_ms)
        if event.id is not None:
            self._arrived_at(event.id)
        self.model = document.get("model", self.model)
        if usage := document.get("usage"):
            self.usage = _usage(usage)
        text = ""
        for choice in document["choices"]:
            text += choice["delta"].get("content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if not text:
            return None
        self._parts.append(text)
        self._progressed()
        self._first_text_at = now if self._first_text_at is None else self._first_text_at
        self.queue_position = None
        return Token(text, self.position)

    def _arrived_at(self, event_id: str) -> None:
        self._last_id = event_id
        stream_id, _, position = event_id.rpartition(".")
        self.stream_id = stream_id or self.stream_id
        if position.isascii() and position.isdigit():
            if int(position) > (self.position or 0):
                self._progressed()  # also without text: a character may be open
            self.position = int(position)

    def _progressed(self) -> None:
        self._waited_s = 0.0
        self._failed_code = None
        self._retries.progressed()

    def _comment(self, text: str) -> None:
        if text.startswith(_QUEUED) and text.removeprefix(_QUEUED).isdigit():
            self.queue_position = int(text.removeprefix(_QUEUED))

    def _end(self, now: float) -> None:
        self.ended = True
        self._ended_at = now

    @property
    def _patience_s(self) -> float:
        return self._config.stall_timeout_s if self._parts else self._config.first_token_timeout_s

    def _deadline_exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"The answer was not complete within {self._request.deadline_s:g} s.")


def _is_deadline(error: ClientError) -> bool:
    return isinstance(error, ServerError) and error.code == _DEADLINE_EXCEEDED


def _usage(document: Mapping[str, object]) -> Usage:
    def count(name: str, within: Mapping[str, object]) -> int:
        value = within.get(name)
        return value if isinstance(value, int) else 0

    details = document.get("prompt_tokens_details")
    cached = count("cached_tokens", details) if isinstance(details, Mapping) else 0
    return Usage(count("prompt_tokens", document), count("completion_tokens", document), cached)
