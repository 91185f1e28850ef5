"""What can go wrong for a user of the client, after all that could be tried has been tried.

ClientError                    `retry_after_s` says when to come back, where the server said so
├── Unreachable                no connection to the server, or it broke again and again
├── StreamLost                 the answer broke off in the middle, and the server cannot go on with it
├── TimedOut
│   ├── FirstTokenTimeout      no first token in time
│   ├── StallTimeout           no further token in time
│   └── DeadlineExceeded       the deadline of the whole answer passed
└── ServerError                the server said no; `status`, `code`, `param`
    ├── RequestRejected        4xx: the request is wrong, trying it again cannot help
    ├── Overloaded             429 and 503: no room now
    └── ServerFailed           every other 5xx
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of every error that the client raises on purpose."""

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which the server asked to come back; None when it did not say."""
        return None


class Unreachable(ClientError):
    """The server could not be reached, or the connection broke more often than retries allow."""


class StreamLost(ClientError):
    """The answer broke off in the middle, and the server cannot go on with it. What came before stays valid."""


class TimedOut(ClientError):
    """Something did not come in time."""


class FirstTokenTimeout(TimedOut):
    """No first token came within `first_token_timeout_s`, at any attempt."""


class StallTimeout(TimedOut):
    """No further token came within `stall_timeout_s`, at any attempt."""


class DeadlineExceeded(TimedOut):
    """The deadline of the whole answer passed."""


class ServerError(ClientError):
    """The server answered with an error."""

    def __init__(
        self,
        message: str,
        status: int = 500,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool = False,
    ) -> None:
        super().__init__(message, status, code, param, retry_after_s, should_retry)
        self.message = message
        self.status = status
        """The HTTP status; for an error in the middle of a stream the one that it would have had."""
        self.code = code
        """The server's `error.code`, as `queue_full`; None when an intermediary answered in its place."""
        self.param = param
        """The field of the request that is wrong."""
        self.should_retry = should_retry
        """Whether trying again can help."""
        self._retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.status}{f', {self.code}' if self.code else ''})"

    @property
    def retry_after_s(self) -> float | None:
        return self._retry_after_s


class RequestRejected(ServerError):
    """The request is wrong: trying it again unchanged cannot help."""


class Overloaded(ServerError):
    """The server has no room now, and said so up to the last retry."""


class ServerFailed(ServerError):
    """The server failed."""
