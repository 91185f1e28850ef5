"""Goes on in vLLM with an output that another replica began: what it is asked, and how its answer is told on."""

from __future__ import annotations

from typing import Any

from serve_app.core.events import Finished, FinishReason, TokenDelta
from serve_app.core.interfaces import Emit
from serve_app.core.request import Continuation, Sampling
from serve_app.engine.vllm.continuation_text import ContinuedText
from serve_app.engine.vllm.stream import OutputStream

PRIOR_PENALTIES_KEY = "serve_app_prior_penalties"
"""Names what `prior_penalties` needs within vLLM's `SamplingParams.extra_args`."""

_SEED_MASK = 2**63 - 1


def has_output_penalties(sampling: Sampling) -> bool:
    """Whether tokens are penalised for being in the output, which vLLM does not find in a prompt."""
    return sampling.presence_penalty != 0 or sampling.frequency_penalty != 0


def continued_arguments(arguments: dict[str, Any], sampling: Sampling, continuation: Continuation) -> dict[str, Any]:
    """`arguments` of the whole output's `SamplingParams`, for one whose prompt ends with the output so far."""
    done = len(continuation.output_token_ids)
    changed = {
        "max_tokens": arguments["max_tokens"] - done,
        "min_tokens": max(0, sampling.min_tokens - done),
        "stop": [],  # searched for by us, in text that began before this request
        # Its own text is not used, but for the tokens' own text beside their log-probabilities.
        "detokenize": sampling.logprobs is not None,
    }
    if sampling.seed is not None:
        changed["seed"] = continued_seed(sampling.seed, done)
    if has_output_penalties(sampling):
        # All three together: the repetition penalty scales what the others are subtracted from.
        changed |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}
        changed["extra_args"] = {
            PRIOR_PENALTIES_KEY: {
                "output_begins": len(continuation.prompt_token_ids),
                "presence": sampling.presence_penalty,
                "frequency": sampling.frequency_penalty,
                "repetition": sampling.repetition_penalty,
            }
        }
    return arguments | changed


def continued_seed(seed: int, output_tokens: int) -> int:
    """Another seed for the rest of an output: the same one would draw again what its first tokens were drawn with.

    Mixed as in SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
    """
    mixed = (seed + output_tokens * 0x9E3779B97F4A7C15) & (2**64 - 1)
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
    return (mixed ^ (mixed >> 31)) & _SEED_MASK


def ended_already(continuation: Continuation, text: ContinuedText, limit: int, params: Any) -> Finished | None:
    """How the output so far has ended, if it has: its last event may be all that got lost with the replica.

    `limit` is the most tokens that the whole output may have, `params` its `SamplingParams` with the model's own end
    tokens. Checks in vLLM's order (`vllm.v1.core.sched.utils.check_stop`, then stop strings).
    """
    if text.stop is not None:
        return Finished(0, FinishReason.STOP, text.stop)
    if ended_by_token(continuation, params):
        last = continuation.output_token_ids[-1]
        return Finished(0, FinishReason.STOP, None if last == params.eos_token_id else last)
    if len(continuation.output_token_ids) >= limit:
        return Finished(0, FinishReason.LENGTH)
    return None


def ended_by_token(continuation: Continuation, params: Any) -> bool:
    """Whether the last token so far is one that ends the output."""
    if not continuation.output_token_ids:
        return False
    last = continuation.output_token_ids[-1]
    return last == params.eos_token_id or last in (params.stop_token_ids or ())


class ContinuedStream(OutputStream):
    """Tells vLLM's outputs as those of the whole output: token positions and text go on, stop strings end it."""

    __slots__ = ("_continuation", "_text")

    def __init__(self, emit: Emit, continuation: Continuation, text: ContinuedText, logprobs: int | None) -> None:
        """`text` is primed with the output so far. `logprobs` as in `OutputStream`."""
        super().__init__(emit, 1, logprobs)
        self._next_index[0] = len(continuation.output_token_ids)
        self._continuation = continuation
        self._text = text

    def accept(self, prompt_token_ids: list[int]) -> None:
        """The engine took the request. The prompt is the original one, without the output so far."""
        super().accept(list(self._continuation.prompt_token_ids))

    def finish(self, finished: Finished) -> None:
        """End at once, since nothing is left to compute; text that was held back comes out."""
        if self._emit is not None:
            self.accept([])
            if rest := self._text.rest(finished=True):
                self._emit(TokenDelta(0, self._next_index[0], 0, rest, [], None if self._top is None else []))
            self._emit(finished)
        self._end(None)

    def put(self, output: Any) -> None:
        """See `OutputStream.put`."""
        if self._emit is not None and not isinstance(output, Exception):
            try:
                self._retell(output)
            except Exception as error:
                self._end(error)
                return
        super().put(output)

    def _retell(self, output: Any) -> None:
        completion = output.outputs[0]
        token_ids = list(completion.token_ids)
        ended = completion.finish_reason == "stop"  # by a token: vLLM was given no stop strings
        kept, completion.text = self._text.push(token_ids, ended, completion.finish_reason is not None)
        completion.token_ids = token_ids[:kept]
        if completion.logprobs is not None:
            completion.logprobs = completion.logprobs[:kept]
        # What is computed as a prompt here was not the client's prompt throughout.
        output.num_cached_tokens = min(output.num_cached_tokens or 0, len(self._continuation.prompt_token_ids))
        if self._text.stop is not None:
            self.cut = completion.finish_reason is None
            completion.finish_reason, completion.stop_reason = "stop", self._text.stop
            output.finished = True
