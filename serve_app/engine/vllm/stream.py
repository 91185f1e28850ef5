"""Turns the outputs of one vLLM request into stream events, as cheaply as every token of every stream demands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from serve_app.core.errors import EngineFailed
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta, TokenLogprob
from serve_app.core.interfaces import Emit

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot hold."""

_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "repetition": FinishReason.STOP}


class OutputStream:
    """Takes a request's outputs in DELTA form through `put`, and resolves `done` after the last one.

    `put` is called on the event loop by vLLM's own output loop, with the outputs of one engine step at a time: it
    never raises. After `close` it emits nothing more.
    """

    __slots__ = ("_emit", "_next_index", "_top", "cut", "done")

    def __init__(self, emit: Emit, choices: int, logprobs: int | None) -> None:
        """`logprobs` is the number of most likely alternatives to tell, None tells none."""
        self._emit: Emit | None = emit
        self._next_index = [0] * choices
        self._top = logprobs
        self.cut = False
        """The stream ended before the request did: vLLM has to be told."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Resolved by the last choice's end; raises what the engine raised."""

    def accept(self, prompt_token_ids: list[int]) -> None:
        """The engine took the request: call it before `put`."""
        if self._emit is not None:
            self._emit(Accepted(len(prompt_token_ids), prompt_token_ids))

    def put(self, output: Any) -> None:
        """Take one `RequestOutput`, or the exception that ends the request."""
        emit = self._emit
        if emit is None:
            return
        if isinstance(output, Exception):
            self._end(output)
            return
        try:
            for completion in output.outputs:
                choice = completion.index
                token_ids = completion.token_ids
                if token_ids or completion.text:
                    index = self._next_index[choice]
                    self._next_index[choice] = index + len(token_ids)
                    if token_ids.__class__ is not list:
                        token_ids = list(token_ids)
                    logprobs = None if self._top is None else token_logprobs(token_ids, completion.logprobs, self._top)
                    emit(TokenDelta(choice, index, len(token_ids), completion.text, token_ids, logprobs))
                if completion.finish_reason is not None:
                    emit(_finished(completion, output.num_cached_tokens or 0))
            if output.finished:
                self._end(None)
        except Exception as error:  # an error here would end vLLM's output loop, and with it every stream
            self._end(error)

    def close(self) -> None:
        """Emit nothing more."""
        self._emit = None

    def _end(self, error: Exception | None) -> None:
        self._emit = None
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def token_logprobs(token_ids: Sequence[int], positions: Any, top: int) -> list[TokenLogprob]:
    """Log-probabilities of `token_ids`, out of vLLM's mapping of token id to `Logprob` for each of them."""
    result = []
    for token_id, position in zip(token_ids, positions or (), strict=True):
        drawn = position[token_id]
        ranked = sorted(position.values(), key=lambda candidate: -candidate.logprob)[:top]
        alternatives = tuple((candidate.decoded_token or "", _finite(candidate.logprob)) for candidate in ranked)
        result.append(TokenLogprob(drawn.decoded_token or "", _finite(drawn.logprob), alternatives))
    return result


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)


def _finished(completion: Any, cached_tokens: int) -> Finished:
    reason = _REASONS.get(completion.finish_reason)
    if reason is None:  # "abort" that nobody here asked for, or "error"
        raise EngineFailed(f"The engine ended the generation with {completion.finish_reason}.")
    return Finished(completion.index, reason, completion.stop_reason, cached_tokens)
