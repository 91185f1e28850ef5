"""What the soak's clients ask, and the one right answer to each: the engine is greedy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

_QUESTIONS = 24
_LENGTHS = (60, 120, 240)


@dataclass(frozen=True, slots=True)
class Question:
    """One request, in the form of each endpoint."""

    number: int
    model: str

    @property
    def prompt(self) -> str:
        return f"Question {self.number}: tell me something about {self.number * 7919}."

    @property
    def tokens(self) -> int:
        return _LENGTHS[self.number % len(_LENGTHS)]

    def chat(self, stream: bool) -> dict[str, Any]:
        return {**self._options(stream), "messages": [{"role": "user", "content": self.prompt}]}

    def completion(self, stream: bool) -> dict[str, Any]:
        return {**self._options(stream), "prompt": self.prompt}

    def background(self) -> dict[str, Any]:
        options = {"model": self.model, "temperature": 0, "max_output_tokens": self.tokens, "ignore_eos": True}
        return {**options, "input": self.prompt, "background": True}

    def _options(self, stream: bool) -> dict[str, Any]:
        options = {"model": self.model, "max_tokens": self.tokens, "temperature": 0, "ignore_eos": True}
        return {**options, "stream": stream}


@dataclass(frozen=True, slots=True)
class Exam:
    """All questions with their right answers."""

    questions: list[Question]
    chat: Mapping[int, str] = field(repr=False)
    completion: Mapping[int, str] = field(repr=False)


async def prepare(http: httpx.AsyncClient, model: str) -> Exam:
    """Ask each question once, before anything goes wrong."""
    questions = [Question(number, model) for number in range(_QUESTIONS)]

    async def chat(question: Question) -> str:
        answer = await http.post("/v1/chat/completions", json=question.chat(stream=False))
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    async def completion(question: Question) -> str:
        answer = await http.post("/v1/completions", json=question.completion(stream=False))
        return str(answer.raise_for_status().json()["choices"][0]["text"])

    chats = await asyncio.gather(*map(chat, questions))
    completions = await asyncio.gather(*map(completion, questions))
    return Exam(questions, dict(enumerate(chats)), dict(enumerate(completions)))
