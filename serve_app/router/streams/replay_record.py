"""What a router keeps of a stream so that another replica can go on with it, and which streams may go on.

A stream is continued from its token ids, not from its text: the other replica computes prompt and output as one prompt
and draws the next token, as after a preemption within one engine (vLLM's recomputation; Kwon et al., "Efficient Memory
Management for Large Language Model Serving with PagedAttention", SOSP 2023).
"""

from __future__ import annotations

from array import array
from dataclasses import replace

from serve_app.core.errors import NotContinuable
from serve_app.core.events import Accepted, TokenDelta
from serve_app.core.request import Continuation, GenerationRequest

_ID = "i"  # four bytes a token, where a list of integers takes up to 36


class ReplayRecord:
    """All tokens and text of one stream that its router has received. Used on one event loop.

    Keep one for each stream whose request `why_not_continuable` does not object to. Its size is bounded by the model's
    context window: about 4 bytes per token of prompt and output, and one per ASCII character of output.
    """

    __slots__ = ("_known", "_output", "_prompt", "_text", "_whole")

    def __init__(self) -> None:
        self._prompt: array[int] | None = None
        self._output: array[int] = array(_ID)
        self._text = bytearray()
        self._whole = True
        self._known = True

    def accepted(self, event: Accepted) -> None:
        """The engine told the prompt; a later attempt tells it again."""
        if self._prompt is None:
            self._prompt = None if event.prompt_token_ids is None else array(_ID, event.prompt_token_ids)

    def record(self, delta: TokenDelta) -> None:
        """Keep the tokens of one delta, in order; called for each token of each stream."""
        output = self._output
        if delta.token_ids is None:  # an engine that gives text only: there is nothing to replay
            self._known = False
            return
        if delta.index != len(output):
            self._whole = False
        output.fromlist(delta.token_ids)
        self._text += delta.text.encode("utf-8", "surrogatepass")

    @property
    def output_tokens(self) -> int:
        """Output tokens kept."""
        return len(self._output)

    @property
    def replay_tokens(self) -> int:
        """Tokens that a continuation computes before its first new one, if nothing of them is cached."""
        return len(self._prompt or ()) + len(self._output)

    def continued(self, request: GenerationRequest, timeout_s: float | None) -> GenerationRequest:
        """`request`, to go on where the stream stands; `timeout_s` is the time left until its deadline, in seconds.

        Raises `NotContinuable` when it would not be the same output.
        """
        if (reason := self.why_not(request)) is not None:
            raise not_continuable(reason)
        assert self._prompt is not None
        continuation = Continuation(
            tuple(self._prompt), tuple(self._output), self._text.decode("utf-8", "surrogatepass")
        )
        return replace(request, timeout_s=timeout_s, continuation=continuation)

    def why_not(self, request: GenerationRequest) -> str | None:
        """Why the stream of `request` cannot be continued from here; None when it can."""
        if (reason := why_not_continuable(request)) is not None:
            return reason
        if self._prompt is None or not self._known:
            return "its token ids are not known"
        if not self._whole:
            return "tokens are missing"
        return None


def not_continuable(reason: str) -> NotContinuable:
    """The error of a stream that cannot go on."""
    return NotContinuable(f"The engine replica was lost, and the output cannot be continued: {reason}.")


def why_not_continuable(request: GenerationRequest) -> str | None:
    """Why no stream of `request` could be continued by another replica; None when it could.

    The choices of one request are not told apart by a continuation, which is one sequence. An engine may still refuse
    with `NotContinuable` what it cannot do, such as penalties under speculative decoding.
    """
    if request.sampling.n != 1:
        return "it has several choices"
    return None
