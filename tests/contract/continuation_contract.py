"""What an engine must do to go on with an output that another replica began: nobody can tell where it was cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import replace

import pytest

from serve_app.core.errors import NotContinuable
from serve_app.core.events import Finished, FinishReason, TokenDelta
from serve_app.core.request import Continuation, Sampling
from tests.contract.engine_contract import Subject
from tests.support.generations import Recording, collect, known

VARIED = Sampling(temperature=0, max_tokens=40, ignore_eos=True, frequency_penalty=1.5, presence_penalty=0.5)
"""Greedy, and no loop: penalties count what came before the cut, or another text comes out."""


@pytest.mark.asyncio(loop_scope="module")
class ContinuationContract:
    """Kept by engines that know the model's token ids."""

    @pytest.mark.parametrize(
        "sampling",
        [
            Sampling(temperature=0, max_tokens=40, ignore_eos=True),
            VARIED,
            replace(VARIED, repetition_penalty=1.2),
            replace(VARIED, stop=("\x00 never",)),
            Sampling(temperature=0, max_tokens=40),
        ],
        ids=["greedy", "penalties", "all_penalties", "stop_string", "natural_end"],
    )
    async def test_output_cut_anywhere_goes_on_as_if_it_had_not_been(
        self, subject: Subject, sampling: Sampling
    ) -> None:
        full = await subject.run(sampling)
        await _assert_same_when_cut(subject, sampling, full, range(0, len(full.token_ids()) + 1, 3))

    async def test_cut_within_a_character_loses_and_repeats_nothing(self, subject: Subject) -> None:
        full = await subject.run(subject.split_characters)
        cuts = [delta.index + 1 for delta in full.deltas() if not delta.text]
        assert cuts, "no token of this output leaves a character open"
        await _assert_same_when_cut(subject, subject.split_characters, full, cuts[:12])

    async def test_stop_string_across_the_cut_ends_the_text_before_it(self, subject: Subject) -> None:
        whole = await subject.run(VARIED)
        stop, end = _stop_over_tokens(whole, 4)
        sampling = replace(VARIED, stop=(stop, "\x00"))
        full = await subject.run(sampling)
        assert full.finished().stop_reason == stop
        assert len(full.token_ids()) == end
        await _assert_same_when_cut(subject, sampling, full, range(max(0, end - 8), end + 1))

    async def test_text_held_back_for_a_stop_string_comes_out_after_the_cut(self, subject: Subject) -> None:
        whole = await subject.run(VARIED)
        stop, end = _stop_over_tokens(whole, 5)
        sampling = replace(VARIED, stop=(stop[:-1] + "\x00",))
        full = await subject.run(sampling)
        assert full.text() == whole.text()
        await _assert_same_when_cut(subject, sampling, full, range(max(0, end - 6), end + 2))

    async def test_stop_string_before_min_tokens_is_no_end_after_the_cut_either(self, subject: Subject) -> None:
        whole = await subject.run(VARIED)
        stop, end = _stop_over_tokens(whole, 2)
        sampling = replace(VARIED, stop=(stop,), min_tokens=end + 4)
        full = await subject.run(sampling)
        assert len(full.token_ids()) > end
        await _assert_same_when_cut(subject, sampling, full, range(end - 2, end + 6, 2))

    async def test_stop_token_ends_the_output_after_the_cut(self, subject: Subject) -> None:
        whole = await subject.run(VARIED)
        stop = next(known(delta.token_ids)[0] for delta in whole.deltas()[12:] if delta.text)
        sampling = replace(VARIED, stop_token_ids=(stop,))
        full = await subject.run(sampling)
        assert full.finished().stop_reason == stop
        end = len(full.token_ids())
        await _assert_same_when_cut(subject, sampling, full, [1, end - 1, end])

    async def test_output_that_had_ended_ends_at_once(self, subject: Subject) -> None:
        full = await subject.run(VARIED)
        rest = await _continued(subject, VARIED, full, len(full.token_ids()))
        assert [type(event).__name__ for event in rest.events] == ["Accepted", "Finished"]
        assert rest.finished().reason is FinishReason.LENGTH

    async def test_continuation_may_be_cut_again(self, subject: Subject) -> None:
        sampling = replace(VARIED, stop=("\x00 never",))
        full = await subject.run(sampling)
        second = await _continued(subject, sampling, full, 11)
        joined = Recording()
        joined.events = [full.accepted, *_before(full, 11), *second.events[1:]]
        await _assert_same_when_cut(subject, sampling, joined, [12, 23])

    async def test_limit_and_context_window_hold_for_the_whole_output(self, subject: Subject) -> None:
        word = (await subject.run(VARIED)).prompt_token_ids[1]
        prompt = [word] * (subject.engine.max_model_len - 8)
        sampling = Sampling(temperature=0, ignore_eos=True)
        begun = replace(subject.request(sampling), continuation=Continuation(tuple(prompt), (), ""))
        full = await collect(subject.engine, begun)
        assert len(full.token_ids()) == 8
        await _assert_same_when_cut(subject, sampling, full, [3, 8])

    async def test_log_probabilities_go_on(self, subject: Subject) -> None:
        sampling = replace(VARIED, logprobs=2)
        full = await subject.run(sampling)
        rest = await _continued(subject, sampling, full, 20)
        expected = [logprob for delta in full.deltas()[20:] for logprob in delta.logprobs or ()]
        told = [logprob for delta in rest.deltas() for logprob in delta.logprobs or ()]
        assert [logprob.token for logprob in told[4:]] == [logprob.token for logprob in expected[4:]]
        assert [logprob.logprob for logprob in told] == pytest.approx([e.logprob for e in expected], abs=1e-3)
        assert all(len(logprob.top) == 2 for logprob in told)

    async def test_seeded_sample_goes_on_alike_each_time(self, subject: Subject) -> None:
        sampling = Sampling(temperature=1, seed=3, max_tokens=24, ignore_eos=True)
        full = await subject.run(sampling)
        first, second = [await _continued(subject, sampling, full, 12) for _ in range(2)]
        assert first.token_ids() == second.token_ids()
        assert len(first.token_ids()) == 12

    async def test_cached_tokens_are_part_of_the_clients_prompt(self, subject: Subject) -> None:
        full = await subject.run(VARIED)
        for cut in (20, 40):
            rest = await _continued(subject, VARIED, full, cut)
            assert 0 <= rest.finished().cached_tokens <= len(full.prompt_token_ids)

    async def test_what_cannot_be_continued_truthfully_is_refused(self, subject: Subject) -> None:
        full = await subject.run(VARIED)
        prompt, ids = tuple(full.prompt_token_ids), tuple(full.token_ids()[:20])
        for sampling, text in ((replace(VARIED, n=2), ""), (VARIED, "Another text was sent.")):
            request = replace(subject.request(sampling), continuation=Continuation(prompt, ids, text))
            recording = Recording()
            with pytest.raises(NotContinuable):
                await subject.engine.generate(request, recording)
            assert recording.events == []


def _before(full: Recording, cut: int) -> list[TokenDelta]:
    """The deltas of the first `cut` tokens."""
    deltas = [delta for delta in full.deltas() if delta.index < cut]
    assert sum(delta.count for delta in deltas) == cut, "the cut must lie between two deltas"
    return deltas


async def _continued(subject: Subject, sampling: Sampling, full: Recording, cut: int) -> Recording:
    """The rest of `full` after its first `cut` tokens, as a fresh replica tells it."""
    begun = _before(full, cut)
    ids = tuple(token for delta in begun for token in known(delta.token_ids))
    continuation = Continuation(tuple(full.prompt_token_ids), ids, "".join(delta.text for delta in begun))
    return await collect(subject.engine, replace(subject.request(sampling), continuation=continuation))


async def _assert_same_when_cut(subject: Subject, sampling: Sampling, full: Recording, cuts: Iterable[int]) -> None:
    """Each continuation of `full` tells what `full` did, in all and in its end; all cuts are tried at once."""
    cuts = list(cuts)
    rests = await asyncio.gather(*(_continued(subject, sampling, full, cut) for cut in cuts))
    ids = full.token_ids()
    for cut, rest in zip(cuts, rests, strict=True):
        begun = _before(full, cut)
        assert rest.accepted == full.accepted
        assert [delta.index for delta in rest.deltas()] == list(range(cut, cut + len(rest.deltas())))
        assert ids[:cut] + rest.token_ids() == ids, cut
        assert "".join(delta.text for delta in begun) + rest.text() == full.text(), cut
        assert _end(rest.finished()) == _end(full.finished()), cut


def _end(finished: Finished) -> tuple[FinishReason, str | int | None]:
    return finished.reason, finished.stop_reason


def _stop_over_tokens(full: Recording, tokens: int) -> tuple[str, int]:
    """A string that begins within one token and ends within another, `tokens` later, and where the output then ends.

    It occurs nowhere before. The end is the number of tokens that complete it.
    """
    deltas = full.deltas()
    for first, last in zip(itertools.islice(deltas, 10, None), deltas[10 + tokens :], strict=False):
        texts = [delta.text for delta in deltas[first.index : last.index + 1]]
        if not all(texts) or "\ufffd" in "".join(texts):
            continue
        stop = texts[0][-1] + "".join(texts[1:-1]) + texts[-1][0]
        before = "".join(delta.text for delta in deltas[: first.index + 1])
        if full.text().index(stop) == len(before) - 1:
            return stop, last.index + 1
    raise AssertionError("no such string in this output")
