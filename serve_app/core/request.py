"""What a client asks for, in the project's own words: prompt, sampling, priority and deadline."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

ANONYMOUS_TENANT = "anonymous"


RESERVED_TEMPLATE_ARGUMENTS = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Arguments of Hugging Face's `apply_chat_template` that are no variables of a template: a request may not set them
among its `chat_template_kwargs`."""


class Priority(enum.StrEnum):
    """Admission band. Members are declared from the most to the least urgent."""

    INTERACTIVE = "interactive"
    DEFAULT = "default"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Prompt:
    """Exactly one of `messages` (chat), `text` and `token_ids` is set.

    `messages` are OpenAI chat messages; the engine renders them with the model's own chat template.
    """

    messages: tuple[dict[str, Any], ...] | None = None
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [self.messages is not None, self.text is not None, self.token_ids is not None]
        if sum(given) != 1:
            raise ValueError("a prompt has exactly one of messages, text and token_ids")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Defaults are OpenAI's; names are vLLM's `SamplingParams`."""

    max_tokens: int | None = None
    """Output tokens per choice; None means as many as the context still holds."""
    min_tokens: int = 0
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means all tokens."""
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Strings that end the output and are not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    n: int = 1
    """Number of choices generated for the one prompt."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    """None: no log-probabilities; k: those of the drawn token and of the k most likely ones."""
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a stream stands that another engine replica began: the generation goes on from there.

    The engine computes the next token after prompt and output, and tells what comes after `text_sent`. All limits,
    stop strings and penalties of the request count the whole output, as if it had never been interrupted.
    """

    prompt_token_ids: tuple[int, ...]
    """The prompt as the first replica computed it, from its `Accepted`."""
    output_token_ids: tuple[int, ...]
    """Every output token received so far."""
    text_sent: str
    """Text received with those tokens. It may end before they do: a character or a stop string may be open."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Asks that a stream outlives its reader: kept under `key`, for any router replica to go on delivering it."""

    key: str
    """Unguessable name of the stream, 32 lowercase hexadecimal digits. The ingress makes it; clients see it signed."""
    envelope: bytes = b""
    """What the ingress needs to write the same answer again; nobody else looks inside."""
    grace_s: float | None = None
    """Seconds for which the generation goes on with nobody reading; None: to its end."""
    prior: tuple[bytes, ...] = ()
    """The stream's events so far, encoded, when a replica goes on with what another one began; set by the router."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation: what goes from the ingress through the router to an engine."""

    request_id: str
    model: str
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    tenant: str = ANONYMOUS_TENANT
    priority: Priority = Priority.DEFAULT
    timeout_s: float | None = None
    """Time left until the deadline, in seconds; remaining time crosses machines, clock readings do not."""
    continuation: Continuation | None = None
    """Set when another replica has begun the output; only for requests of one choice."""
    retention: Retention | None = None
    """Set when the stream can be resumed; only for requests of one choice."""
