"""What every engine must do: what `serve_app.core.interfaces.Engine` and `serve_app.core.events` promise, as tests.

To add an engine, write `test_<kind>_engine.py` beside this file:

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def subject() -> AsyncIterator[Subject]:
        async with started(MyEngine(config)) as engine:  # closes it twice: close is idempotent
            yield Subject(engine, decode=my_tokenizer.decode)

    class TestMyEngine(EngineContract, TokenIdContract, LogprobsContract): ...

inheriting those contracts that the engine can keep: every engine keeps `EngineContract`; an upstream that hides its
token ids cannot keep the others. Let its batch hold fewer than 32 sequences, so that queueing is covered too.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve_app.core.engine_status import EngineLoad
from serve_app.core.errors import ContextLengthExceeded, InvalidRequest
from serve_app.core.events import Accepted, Finished, FinishReason, TokenDelta
from serve_app.core.interfaces import Engine
from serve_app.core.request import GenerationRequest, Prompt, Sampling
from tests.support.generations import Recording, collect, known, request
from tests.support.loop_hold import LoopHold

PROMPT = "Tell me a story about the sea, a café and 서울 🙂"
GREEDY = Sampling(temperature=0, max_tokens=48, ignore_eos=True)

_HUGE_TEXT = "Once upon a time " * 120_000
HUGE = {
    "text": Prompt(text=_HUGE_TEXT),
    "line": Prompt(text="=" * len(_HUGE_TEXT)),
    "user": Prompt(messages=({"role": "user", "content": _HUGE_TEXT},)),
    "system": Prompt(messages=({"role": "system", "content": _HUGE_TEXT}, {"role": "user", "content": "Go on."})),
}
"""Two million characters, which fit no context window of these tests."""


@dataclass(frozen=True)
class Subject:
    """A started engine and what the suite has to know about it."""

    engine: Engine
    model: str = "model"
    """Model name to put into requests."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Text of token ids without special tokens, by the model's own tokenizer; for `TokenIdContract`."""
    bad_messages: tuple[tuple[dict[str, Any], ...], ...] = ((), ({"content": "a message without a role"},))
    """Conversations that cannot be rendered."""
    split_characters: Sampling = GREEDY
    """Sampling that gives an output some of whose tokens are only a part of a character."""
    idle_within_s: float = 1.0
    """Seconds after a cancel within which nothing may run any more."""

    def request(self, sampling: Sampling, prompt: Prompt | str = PROMPT) -> GenerationRequest:
        """A request to this engine."""
        return request(prompt, sampling, self.model)

    async def run(self, sampling: Sampling, prompt: Prompt | str = PROMPT) -> Recording:
        """Run a request to its end."""
        return await collect(self.engine, self.request(sampling, prompt))

    async def load_where(self, condition: Callable[[EngineLoad], bool]) -> EngineLoad:
        """The first load within `idle_within_s` that meets `condition`, or the last one seen."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self.idle_within_s
        while not condition(load := self.engine.load()) and loop.time() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return load


def _idle(load: EngineLoad) -> bool:
    return load.running == 0 and load.waiting == 0


@pytest.mark.asyncio(loop_scope="module")
class EngineContract:
    """Kept by every engine."""

    async def test_stream_is_accepted_then_deltas_then_one_finished(self, subject: Subject) -> None:
        events = (await subject.run(GREEDY)).events
        assert isinstance(events[0], Accepted)
        assert all(isinstance(event, TokenDelta) for event in events[1:-1])
        assert isinstance(events[-1], Finished)

    async def test_deltas_are_contiguous_from_zero_and_never_without_a_token(self, subject: Subject) -> None:
        recording = await subject.run(GREEDY)
        expected = 0
        for delta in recording.deltas():
            assert delta.index == expected
            assert delta.token_ids
            expected += delta.count

    @pytest.mark.parametrize("max_tokens", [1, 2, 17])
    async def test_ignore_eos_gives_exactly_max_tokens(self, subject: Subject, max_tokens: int) -> None:
        recording = await subject.run(Sampling(max_tokens=max_tokens, ignore_eos=True))
        assert len(recording.token_ids()) == max_tokens
        assert recording.finished().reason is FinishReason.LENGTH
        assert recording.finished().stop_reason is None

    async def test_temperature_zero_gives_the_same_text_each_time(self, subject: Subject) -> None:
        first, second = [await subject.run(GREEDY) for _ in range(2)]
        assert first.text()
        assert first.text() == second.text()

    async def test_same_seed_gives_the_same_sample_and_another_seed_another(self, subject: Subject) -> None:
        texts = [
            (await subject.run(Sampling(temperature=1, seed=seed, max_tokens=24, ignore_eos=True))).text()
            for seed in (11, 11, 12)
        ]
        assert texts[0] == texts[1]
        assert texts[0] != texts[2]

    async def test_text_is_whole_characters(self, subject: Subject) -> None:
        for delta in (await subject.run(GREEDY)).deltas():
            delta.text.encode()  # a lone surrogate, half of a character, would raise

    async def test_stop_string_across_deltas_ends_the_text_before_it(self, subject: Subject) -> None:
        full = await subject.run(GREEDY)
        stop = _stop_across_deltas(full)
        stopped = await subject.run(Sampling(temperature=0, max_tokens=48, ignore_eos=True, stop=(stop,)))
        assert stopped.text() == full.text()[: full.text().index(stop)]
        assert stopped.finished().reason is FinishReason.STOP
        assert stopped.finished().stop_reason == stop

    async def test_text_held_back_for_a_stop_string_comes_out_at_the_end(self, subject: Subject) -> None:
        full = await subject.run(GREEDY)
        never = full.text()[-1] + "-this never follows"
        stopped = await subject.run(Sampling(temperature=0, max_tokens=48, ignore_eos=True, stop=(never,)))
        assert stopped.text() == full.text()
        assert stopped.finished().reason is FinishReason.LENGTH

    async def test_each_of_n_choices_is_a_stream_of_its_own(self, subject: Subject) -> None:
        recording = await subject.run(Sampling(n=3, temperature=1, seed=5, max_tokens=24, ignore_eos=True))
        assert sum(isinstance(event, Accepted) for event in recording.events) == 1
        for choice in range(3):
            indices = [delta.index for delta in recording.deltas(choice)]
            assert indices[0] == 0
            assert indices == sorted(indices)
            assert len(recording.token_ids(choice)) == 24
            assert recording.events.index(recording.finished(choice)) > recording.events.index(
                recording.deltas(choice)[-1]
            )
        assert len({recording.text(choice) for choice in range(3)}) > 1

    async def test_no_logprobs_unless_asked(self, subject: Subject) -> None:
        assert all(delta.logprobs is None for delta in (await subject.run(GREEDY)).deltas())

    async def test_too_long_prompt_raises_before_anything_is_emitted(self, subject: Subject) -> None:
        recording = Recording()
        prompt = Prompt(text="word " * (subject.engine.max_model_len + 1))
        with pytest.raises(ContextLengthExceeded) as raised:
            await subject.engine.generate(subject.request(Sampling(max_tokens=1), prompt), recording)
        assert str(subject.engine.max_model_len) in raised.value.message
        assert recording.events == []

    @pytest.mark.parametrize("prompt", list(HUGE.values()), ids=list(HUGE))
    async def test_a_huge_prompt_is_refused_while_the_event_loop_goes_on(
        self, subject: Subject, prompt: Prompt
    ) -> None:
        holds = []
        for _ in range(3):  # the best counts: what holds the loop each time is the code, once the machine
            async with LoopHold() as hold:
                with pytest.raises(ContextLengthExceeded):
                    await subject.run(Sampling(max_tokens=1), prompt)
            holds.append(hold.longest_s)
        assert min(holds) < 0.05
        assert _idle(subject.engine.load())

    async def test_prompt_and_output_together_too_long_raises(self, subject: Subject) -> None:
        with pytest.raises(ContextLengthExceeded):
            await subject.run(Sampling(max_tokens=subject.engine.max_model_len))

    async def test_messages_that_cannot_be_rendered_raise_invalid_request(self, subject: Subject) -> None:
        for messages in subject.bad_messages:
            recording = Recording()
            with pytest.raises(InvalidRequest) as raised:
                await subject.engine.generate(subject.request(GREEDY, Prompt(messages=messages)), recording)
            assert (raised.value.param or "").split(".")[0] == "messages"
            assert recording.events == []

    async def test_cancel_frees_the_engine_and_emits_nothing_more(self, subject: Subject) -> None:
        recording = Recording()
        task = asyncio.create_task(subject.engine.generate(subject.request(_long(subject)), recording))
        await recording.until(lambda seen: len(seen.deltas()) >= 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = len(recording.events)
        assert _idle(await subject.load_where(_idle))
        assert len(recording.events) == seen

    async def test_cancel_leaves_other_generations_alone(self, subject: Subject) -> None:
        doomed, other = Recording(), Recording()
        doomed_task = asyncio.create_task(subject.engine.generate(subject.request(_long(subject)), doomed))
        other_task = asyncio.create_task(subject.engine.generate(subject.request(GREEDY), other))
        await doomed.until(lambda seen: bool(seen.deltas()))
        doomed_task.cancel()
        await other_task
        assert len(other.token_ids()) == GREEDY.max_tokens
        assert other.finished().reason is FinishReason.LENGTH
        await asyncio.wait([doomed_task])
        assert doomed_task.cancelled()

    async def test_cancel_at_once_frees_the_engine(self, subject: Subject) -> None:
        task = asyncio.create_task(subject.engine.generate(subject.request(_long(subject)), Recording()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _idle(await subject.load_where(_idle))

    async def test_many_concurrent_generations_all_complete(self, subject: Subject) -> None:
        limits = [16 + number % 5 for number in range(32)]
        recordings = await asyncio.gather(
            *(
                subject.run(Sampling(max_tokens=limit, ignore_eos=True), f"Tell me about the number {number}.")
                for number, limit in enumerate(limits)
            )
        )
        assert [len(recording.token_ids()) for recording in recordings] == limits
        assert _idle(await subject.load_where(_idle))

    async def test_load_counts_what_runs_and_what_was_generated(self, subject: Subject) -> None:
        before = subject.engine.load()
        recording = Recording()
        task = asyncio.create_task(subject.engine.generate(subject.request(GREEDY), recording))
        await recording.until(lambda seen: len(seen.deltas()) >= 2)
        during = await subject.load_where(lambda load: load.running == 1)
        assert during.running == 1
        assert 0 <= during.kv_cache_usage <= 1
        await task
        wanted = before.generated_tokens + len(recording.token_ids())
        after = await subject.load_where(lambda load: load.generated_tokens >= wanted and _idle(load))
        assert after.generated_tokens == wanted
        assert after.steps > before.steps

    async def test_started_engine_is_healthy_and_knows_its_context(self, subject: Subject) -> None:
        await subject.engine.check_health()
        assert subject.engine.max_model_len > 0

    async def test_metrics_are_prometheus_text(self, subject: Subject) -> None:
        list(text_string_to_metric_families(subject.engine.metrics_text().decode()))


@pytest.mark.asyncio(loop_scope="module")
class TokenIdContract:
    """Kept by engines that know the model's token ids."""

    async def test_all_are_accepted_before_the_first_has_finished(self, subject: Subject) -> None:
        recordings = [Recording() for _ in range(32)]
        tasks = [
            asyncio.create_task(subject.engine.generate(subject.request(GREEDY, f"Number {number}"), recording))
            for number, recording in enumerate(recordings)
        ]
        for recording in recordings:
            await recording.until(lambda seen: bool(seen.events))
        assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)

    async def test_text_prompt_is_its_own_token_ids(self, subject: Subject) -> None:
        assert subject.decode is not None
        recording = await subject.run(GREEDY, Prompt(text=PROMPT))
        assert subject.decode(recording.prompt_token_ids) == PROMPT

    async def test_chat_prompt_contains_its_messages(self, subject: Subject) -> None:
        assert subject.decode is not None
        assert PROMPT in subject.decode((await subject.run(GREEDY)).prompt_token_ids)

    async def test_joined_text_is_that_of_the_token_ids(self, subject: Subject) -> None:
        assert subject.decode is not None
        recording = await subject.run(GREEDY)
        whole = subject.decode(recording.token_ids())
        # How many U+FFFD stand for bytes that are no character is the detokenizer's affair.
        assert recording.text().replace("\ufffd", "") == whole.replace("\ufffd", "")

    async def test_token_id_prompt_is_computed_as_given(self, subject: Subject) -> None:
        chat = await subject.run(GREEDY)
        replayed = await subject.run(GREEDY, Prompt(token_ids=tuple(chat.prompt_token_ids)))
        assert replayed.accepted == chat.accepted
        assert replayed.token_ids() == chat.token_ids()

    async def test_prompt_and_output_replayed_as_prompt_continue_the_output(self, subject: Subject) -> None:
        full = await subject.run(GREEDY)
        ids = full.token_ids()
        deltas = full.deltas()
        whole = [number for number, delta in enumerate(deltas) if delta.text]  # replay from where no text is open
        for last in (whole[0], whole[len(whole) // 2], whole[-2]):
            cut = deltas[last].end
            prompt = Prompt(token_ids=(*full.prompt_token_ids, *ids[:cut]))
            rest = await subject.run(Sampling(temperature=0, max_tokens=len(ids) - cut, ignore_eos=True), prompt)
            assert rest.token_ids() == ids[cut:]
            assert rest.text() == "".join(delta.text for delta in deltas[last + 1 :])

    async def test_stop_token_ends_the_output_without_its_text(self, subject: Subject) -> None:
        full = await subject.run(GREEDY)
        deltas = [delta for delta in full.deltas() if delta.text]
        stop = known(deltas[len(deltas) // 2].token_ids)[-1]
        stopped = await subject.run(Sampling(temperature=0, max_tokens=48, ignore_eos=True, stop_token_ids=(stop,)))
        first = full.token_ids().index(stop)
        assert stopped.token_ids() == full.token_ids()[: first + 1]
        assert stopped.text() == "".join(delta.text for delta in full.deltas() if delta.index < first)
        assert stopped.finished().reason is FinishReason.STOP
        assert stopped.finished().stop_reason == stop

    async def test_min_tokens_holds_stop_tokens_off(self, subject: Subject) -> None:
        first = (await subject.run(GREEDY)).token_ids()[0]
        sampling = Sampling(temperature=0, min_tokens=6, max_tokens=12, ignore_eos=True, stop_token_ids=(first,))
        assert 6 <= len((await subject.run(sampling)).token_ids()) <= 12

    async def test_without_max_tokens_the_output_fills_the_context(self, subject: Subject) -> None:
        word = (await subject.run(GREEDY)).prompt_token_ids[1]
        prompt = Prompt(token_ids=(word,) * (subject.engine.max_model_len - 5))
        recording = await subject.run(Sampling(temperature=0, ignore_eos=True), prompt)
        assert len(recording.token_ids()) == 5
        assert recording.finished().reason is FinishReason.LENGTH

    async def test_cached_tokens_are_part_of_the_prompt(self, subject: Subject) -> None:
        for _ in range(2):
            recording = await subject.run(GREEDY, PROMPT * 4)
            assert 0 <= recording.finished().cached_tokens < len(recording.prompt_token_ids)

    async def test_token_id_outside_the_vocabulary_raises_invalid_request(self, subject: Subject) -> None:
        with pytest.raises(InvalidRequest):
            await subject.run(GREEDY, Prompt(token_ids=(1, 2**31 - 1)))


@pytest.mark.asyncio(loop_scope="module")
class LogprobsContract:
    """Kept by engines that tell log-probabilities."""

    @pytest.mark.parametrize("top", [0, 1, 4])
    async def test_every_token_has_logprobs_that_are_sorted_and_not_positive(self, subject: Subject, top: int) -> None:
        recording = await subject.run(Sampling(temperature=1, seed=3, max_tokens=16, ignore_eos=True, logprobs=top))
        for delta in recording.deltas():
            assert delta.logprobs is not None
            assert len(delta.logprobs) == delta.count
            for drawn in delta.logprobs:
                assert drawn.logprob <= 1e-6
                assert len(drawn.top) == top
                values = [logprob for _, logprob in drawn.top]
                assert values == sorted(values, reverse=True)
                assert sum(math.exp(value) for value in values) <= 1 + 1e-3

    async def test_greedy_token_is_the_most_likely_one(self, subject: Subject) -> None:
        recording = await subject.run(Sampling(temperature=0, max_tokens=16, ignore_eos=True, logprobs=2))
        for delta in recording.deltas():
            for drawn in delta.logprobs or ():
                assert drawn.top[0] == (drawn.token, drawn.logprob)


def _long(subject: Subject) -> Sampling:
    """As many tokens as surely fit beside the prompt: long enough to be cut."""
    return Sampling(max_tokens=subject.engine.max_model_len // 2, ignore_eos=True)


def _stop_across_deltas(full: Recording) -> str:
    """Two characters of which one ends a delta and the other begins the next, and which do not occur before."""
    texts = [delta.text for delta in full.deltas() if delta.text]
    offset = len(texts[0])
    for left, right in itertools.pairwise(texts[1:]):
        offset += len(left)
        stop = left[-1] + right[0]
        if "\ufffd" not in stop and full.text().index(stop) == offset - 1:
            return stop
    raise AssertionError("no two deltas meet in a pair of characters that is new there")
