"""An answer as the messages of a gRPC stream, written from typed stream events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.core.errors import ServeAppError
from serve_app.core.events import Accepted, Finished, StreamEvent, TokenDelta
from serve_app.ingress.grpc.proto.chat_pb2 import ChatResponse
from serve_app.ingress.grpc.proto.generation_pb2 import Usage
from serve_app.ingress.grpc.status import error_message

CANCELLED = "cancelled"
"""`finish_reason` of an answer that its client ended."""


class AnswerWriter:
    """Writes one answer of one choice. Used by one task.

    What has come by the time that it is written goes into one message: a reader that keeps up gets a message for each
    token, and one that does not gets fewer and larger ones.
    """

    def __init__(self, answer_id: str, elapsed_ms: Callable[[], float]) -> None:
        """`elapsed_ms` gives the milliseconds since the request arrived."""
        self._id = answer_id
        self._elapsed_ms = elapsed_ms
        self._model = ""
        self._stream_id = ""
        self._position = 0
        self._prompt_tokens = 0
        self._finished: Finished | None = None
        self._introduced = False

    @property
    def complete(self) -> bool:
        """Whether the answer has ended: all that is left to say is `done`."""
        return self._finished is not None

    def introduce(self, model: str, stream_id: str, position: int) -> None:
        """Set what the first message tells; `stream_id` if the stream is kept, `position` if the client has a part."""
        self._model, self._stream_id, self._position = model, stream_id, position

    def write(self, events: Sequence[StreamEvent]) -> ChatResponse | None:
        """The message for `events`; None when they show nothing."""
        text: list[str] = []
        for event in events:
            if isinstance(event, TokenDelta):
                self._position = event.end
                text.append(event.text)
            elif isinstance(event, Finished):
                self._finished = event
            elif isinstance(event, Accepted):
                self._prompt_tokens = event.prompt_tokens
        token = "".join(text)
        # Who can resume must know how, before the first token.
        if not token and (self._introduced or not self._stream_id or not events):
            return None
        message = self._message()
        message.token = token
        return message

    def queued(self, place: int | None) -> ChatResponse:
        """Says that the request is alive, and how many are ahead of it."""
        message = self._message()
        if place is not None:
            message.queue_position = place
        return message

    def done(self) -> ChatResponse:
        """The last message of an answer that is `complete`."""
        finished = self._finished
        assert finished is not None
        message = self._message()
        message.done = True
        message.finish_reason = finished.reason.value
        message.usage.CopyFrom(self.usage())
        return message

    def cancelled(self) -> ChatResponse:
        """The last message of an answer that its client cancelled."""
        message = self._message()
        message.done = True
        message.finish_reason = CANCELLED
        return message

    def failed(self, error: ServeAppError) -> ChatResponse:
        """The last message of an answer that `error` ended."""
        message = self._message()
        message.error.CopyFrom(error_message(error))
        return message

    def usage(self) -> Usage:
        """Token counts of the whole answer."""
        cached = self._finished.cached_tokens if self._finished is not None else 0
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._position, cached_tokens=cached)

    def _message(self) -> ChatResponse:
        message = ChatResponse(id=self._id, position=self._position, latency_ms=self._elapsed_ms())
        if not self._introduced:
            self._introduced = True
            message.model = self._model
            message.stream_id = self._stream_id
        return message
