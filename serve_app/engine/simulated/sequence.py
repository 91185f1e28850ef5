"""One choice of a simulated generation: draws its tokens, shows their text, and knows when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.core.errors import EngineFailed, NotContinuable
from serve_app.core.events import Finished, FinishReason, TokenDelta
from serve_app.core.interfaces import Emit
from serve_app.core.request import Continuation, Sampling
from serve_app.engine.simulated.config import RequestFault
from serve_app.engine.simulated.language import TokenSource
from serve_app.engine.simulated.text import Detokenizer, StopStrings
from serve_app.engine.simulated.vocabulary import END


@dataclass(slots=True, eq=False)
class Job:
    """One accepted request: all its choices, and where their events go."""

    emit: Emit
    sequences: list[Sequence] = field(default_factory=list)
    unfinished: int = 0
    """Choices that have not ended yet."""
    error: EngineFailed | None = None
    """Why the whole request failed, if it did."""


class Sequence:
    """One choice. The scheduler owns the public counters; `advance` owns the rest."""

    __slots__ = (
        "_backlog",
        "_begun",
        "_detokenizer",
        "_logprobs",
        "_max_tokens",
        "_may_end",
        "_min_tokens",
        "_source",
        "_stop_token_ids",
        "_stops",
        "arrival",
        "cached_tokens",
        "choice",
        "fault",
        "finished",
        "generated",
        "job",
        "prefix_blocks",
        "prompt_tokens",
        "stalled_until",
        "to_prefill",
    )

    def __init__(
        self,
        job: Job,
        choice: int,
        prompt_tokens: int,
        prefix_blocks: list[int],
        source: TokenSource,
        open_bytes: bytes,
        sampling: Sampling,
        max_tokens: int,
    ) -> None:
        self.job = job
        self.choice = choice
        self.prompt_tokens = prompt_tokens
        self.prefix_blocks = prefix_blocks
        self.generated = 0
        """Tokens drawn here, without those of a continuation."""
        self.to_prefill = 0
        """Tokens still to be computed before the next one can be drawn."""
        self.cached_tokens = 0
        self.arrival = 0
        self.fault: RequestFault | None = None
        self.stalled_until = 0.0
        self.finished: Finished | None = None
        """Set by the `advance` that drew the last token, or by `resume` after it."""
        self._source = source
        self._detokenizer = Detokenizer(open_bytes)
        stops = tuple(stop for stop in sampling.stop if stop)
        self._stops = StopStrings(stops) if stops else None
        self._stop_token_ids = sampling.stop_token_ids
        self._max_tokens = max_tokens
        self._min_tokens = sampling.min_tokens
        self._may_end = not sampling.ignore_eos
        self._logprobs = sampling.logprobs
        self._begun = 0
        self._backlog = ""

    @property
    def length(self) -> int:
        """Tokens that the KV cache must hold for this sequence."""
        return self.prompt_tokens + self.generated

    def resume(self, continuation: Continuation) -> None:
        """Go on with an output whose tokens are at the end of the prompt; before the first `advance`.

        Sets `finished` when they had ended it. Raises `NotContinuable` when their text is not the one that was sent.
        """
        shown = ""
        for token in continuation.output_token_ids:
            if self.finished is not None:
                break
            shown += self._show(self._begun, token)
            self._begun += 1
        if not shown.startswith(continuation.text_sent):
            raise NotContinuable("The text of the tokens so far is another than the one that was sent.")
        self._backlog = shown[len(continuation.text_sent) :]

    def last_words(self) -> TokenDelta | None:
        """Text that is still to be told when `resume` has set `finished`; None if there is none."""
        if not self._backlog:
            return None
        return TokenDelta(self.choice, self._begun, 0, self._backlog, [], None if self._logprobs is None else [])

    def advance(self) -> TokenDelta:
        """Draw one token. Sets `finished` when it is the last."""
        index = self._begun + self.generated
        self.generated += 1
        token = self._source.draw(index >= self._min_tokens and self._may_end)
        text = self._show(index, token)
        if self._backlog:
            text = self._backlog + text
            self._backlog = ""
        logprobs = None if self._logprobs is None else [self._source.logprob(self._logprobs)]
        return TokenDelta(self.choice, index, 1, text, [token], logprobs)

    def _show(self, index: int, token: int) -> str:
        """Text that the output's token number `index` lets out. Sets `finished` when it is the last."""
        may_stop = index >= self._min_tokens
        text = self._detokenizer.push(token)
        if token == END and self._may_end:
            self._finish(FinishReason.STOP)
        elif may_stop and token in self._stop_token_ids:
            text = ""
            self._finish(FinishReason.STOP, token)
        elif self._stops is not None and may_stop:
            text = self._stops.push(text)
            if self._stops.found is not None:
                self._finish(FinishReason.STOP, self._stops.found)
        if self.finished is None and index + 1 >= self._max_tokens:
            self._finish(FinishReason.LENGTH)
        if self.finished is not None and self._stops is not None:
            text += self._stops.flush()
        return text

    def _finish(self, reason: FinishReason, stop_reason: str | int | None = None) -> None:
        cached_tokens = min(self.cached_tokens, self.prompt_tokens - self._begun)  # of what the client calls prompt
        self.finished = Finished(self.choice, reason, stop_reason, cached_tokens)
