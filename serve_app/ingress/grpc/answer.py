"""An answer as the messages of a gRPC stream, written from typed stream events."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.core.errors import ServeAppError
from serve_app.core.events import Finished, StreamEvent, TokenLogprob
from serve_app.ingress.grpc.proto.chat_pb2 import ChatResponse
from serve_app.ingress.grpc.proto.generation_pb2 import Usage as UsageMessage
from serve_app.ingress.grpc.status import error_message
from serve_app.openai_api.event_reader import EventReader
from serve_app.openai_api.usage import Usage

CANCELLED = "cancelled"
"""`finish_reason` of an answer that its client ended."""


class AnswerWriter(EventReader):
    """Writes one answer of one choice. Used by one task.

    What has come by the time that it is written goes into one message: a reader that keeps up gets a message for each
    token, and one that does not gets fewer and larger ones.
    """

    def __init__(self, answer_id: str, elapsed_ms: Callable[[], float]) -> None:
        """`elapsed_ms` gives the milliseconds since the request arrived."""
        super().__init__()
        self._id = answer_id
        self._elapsed_ms = elapsed_ms
        self._model = ""
        self._stream_id = ""
        self._texts: list[str] = []
        self._finished: Finished | None = None
        self._introduced = False

    def introduce(self, model: str, stream_id: str, position: int) -> None:
        """Set what the first message tells; `stream_id` if the stream is kept, `position` if the client has a part."""
        self._model, self._stream_id, self.position = model, stream_id, position
        self.usage.completion_tokens = position

    def write(self, events: Sequence[StreamEvent]) -> ChatResponse | None:
        """The message for `events`; None when they show nothing."""
        self._texts.clear()
        self.read(events)
        token = "".join(self._texts)
        # Who can resume must know how, before the first token.
        if not token and (self._introduced or not self._stream_id or not events):
            return None
        message = self._message()
        message.token = token
        return message

    def on_content(self, choice: int, text: str, logprobs: list[TokenLogprob] | None) -> None:
        """See `EventReader`."""
        self._texts.append(text)

    def on_finished(self, event: Finished) -> None:
        """See `EventReader`."""
        self._finished = event

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
        message.usage.CopyFrom(usage_message(self.usage))
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

    def _message(self) -> ChatResponse:
        message = ChatResponse(id=self._id, position=self.position, latency_ms=self._elapsed_ms())
        if not self._introduced:
            self._introduced = True
            message.model = self._model
            message.stream_id = self._stream_id
        return message


def usage_message(usage: Usage) -> UsageMessage:
    """Token counts of a whole answer."""
    return UsageMessage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )
