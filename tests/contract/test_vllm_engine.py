"""The vLLM engine keeps the engine contract: a tiny model of random weights with a real tokenizer, on the CPU."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from serve_app.core.errors import EngineFailed, InvalidRequest
from serve_app.core.request import Prompt, Sampling
from serve_app.engine.vllm.config import VllmEngineConfig
from serve_app.engine.vllm.engine import VllmEngine
from tests.contract.continuation_contract import VARIED, ContinuationContract
from tests.contract.engine_contract import GREEDY, EngineContract, LogprobsContract, Subject, TokenIdContract
from tests.support.generations import Recording, collect, started

TINY_MODEL = Path(__file__).parents[2] / "models" / "tiny-smollm2"
CONFIG = VllmEngineConfig(
    model=str(TINY_MODEL), load_format="dummy", max_model_len=2048, max_num_seqs=16, kv_cache_gib=0.25
)
ENDLESS = Sampling(max_tokens=1500, ignore_eos=True)

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject() -> AsyncIterator[Subject]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)

    def decode(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    async with started(VllmEngine(CONFIG)) as engine:
        # Among so many tokens of this model's noise are some that are only a part of a character.
        yield Subject(engine, decode=decode, split_characters=replace(VARIED, max_tokens=150))


@pytest.mark.asyncio(loop_scope="module")
class TestVllmEngine(EngineContract, TokenIdContract, LogprobsContract, ContinuationContract):
    """The contract, and what only vLLM can get wrong."""

    @pytest.mark.parametrize(
        ("sampling", "param"),
        [
            (Sampling(top_p=7), "top_p"),
            (Sampling(temperature=-1), "temperature"),
            (Sampling(presence_penalty=9), "presence_penalty"),
            (Sampling(stop=("",)), "stop"),
            (Sampling(n=0), "n"),
            (Sampling(max_tokens=4, min_tokens=5), "min_tokens"),
            (Sampling(logprobs=10_000), "logprobs"),
            (Sampling(stop_token_ids=(10**9,)), "stop_token_ids"),
            (Sampling(seed=2**70), "seed"),
        ],
    )
    async def test_sampling_that_vllm_refuses_is_an_invalid_request_that_names_it(
        self, subject: Subject, sampling: Sampling, param: str
    ) -> None:
        recording = Recording()
        with pytest.raises(InvalidRequest) as raised:
            await subject.engine.generate(subject.request(sampling), recording)
        assert raised.value.param == param
        assert recording.events == []
        assert subject.engine.load().waiting == 0

    async def test_one_request_id_may_run_twice_at_a_time(self, subject: Subject) -> None:
        same = subject.request(GREEDY)
        first, second = await asyncio.gather(collect(subject.engine, same), collect(subject.engine, same))
        assert first.token_ids() == second.token_ids()

    async def test_streamed_text_is_that_of_an_answer_in_one_piece(self, subject: Subject) -> None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        streamed = await subject.run(GREEDY, "안녕하세요 🙂👩‍👩‍👧 café")
        assert isinstance(subject.engine, VllmEngine)
        assert subject.engine._llm is not None
        params = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
        prompt = TokensPrompt(prompt_token_ids=streamed.accepted.prompt_token_ids)
        async for output in subject.engine._llm.generate(prompt, params, "whole"):
            whole = output.outputs[0].text
        assert streamed.text() == whole

    async def test_cancelled_choices_are_all_forgotten(self, subject: Subject) -> None:
        recording = Recording()
        sampling = Sampling(n=3, max_tokens=1500, ignore_eos=True)
        task = asyncio.create_task(subject.engine.generate(subject.request(sampling), recording))
        await recording.until(lambda seen: all(seen.deltas(choice) for choice in range(3)))
        task.cancel()
        await asyncio.wait([task])
        load = await subject.load_where(lambda load: load.running == 0)
        assert (load.running, load.waiting) == (0, 0)
        assert isinstance(subject.engine, VllmEngine)
        assert subject.engine._llm is not None
        assert subject.engine._llm.output_processor.get_num_unfinished_requests() == 0

    async def test_unknown_token_of_a_prompt_names_the_prompt(self, subject: Subject) -> None:
        with pytest.raises(InvalidRequest) as raised:
            await subject.run(GREEDY, Prompt(token_ids=(1, 10**9)))
        assert raised.value.param == "prompt"

    async def test_empty_prompts_are_refused(self, subject: Subject) -> None:
        for prompt in (Prompt(text=""), Prompt(token_ids=())):
            with pytest.raises(InvalidRequest):
                await subject.run(GREEDY, prompt)

    async def test_metrics_are_vllms_and_name_the_model_without_its_path(self, subject: Subject) -> None:
        text = subject.engine.metrics_text().decode()
        assert 'vllm:num_requests_running{engine="0",model_name="tiny-smollm2"}' in text
        assert str(TINY_MODEL) not in text
        assert "process_cpu_seconds" not in text


@pytest.mark.asyncio(loop_scope="module")
async def test_dead_core_fails_what_runs_and_the_health_check(subject: Subject) -> None:
    """The last test with this engine: nobody can use it afterwards."""
    engine, recording = subject.engine, Recording()
    assert isinstance(engine, VllmEngine)
    running = asyncio.create_task(engine.generate(subject.request(ENDLESS, "Hello"), recording))
    await recording.until(lambda seen: bool(seen.deltas()))
    (core,) = _engine_cores()
    core.kill()
    with pytest.raises(EngineFailed):
        await running
    with pytest.raises(EngineFailed):
        await engine.check_health()
    with pytest.raises(EngineFailed):
        await subject.run(ENDLESS, "Hello")
    await engine.close()
    assert [child.name() for child in psutil.Process().children(recursive=True) if "VLLM" in child.name()] == []


async def test_unknown_engine_argument_fails_the_start_and_says_what_may_be_meant() -> None:
    engine = VllmEngine(CONFIG.model_copy(update={"engine_args": {"max_num_batched_token": 512}}))
    with pytest.raises(EngineFailed, match="max_num_batched_tokens"):
        await engine.start()
    await engine.close()


async def test_model_that_is_not_there_fails_the_start() -> None:
    before = psutil.Process().children(recursive=True)
    engine = VllmEngine(CONFIG.model_copy(update={"model": str(TINY_MODEL.parent / "missing")}))
    with pytest.raises(EngineFailed, match="missing"):
        await engine.start()
    await engine.close()
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_killed_process_leaves_no_engine_core_behind() -> None:
    command = [sys.executable, "-m", "tests.support.vllm_process", str(TINY_MODEL)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        pids = next(line for line in process.stdout if line.startswith("children")).split()[1:]
        children = [psutil.Process(int(pid)) for pid in pids]
        assert any("EngineCore" in child.name() for child in children)
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def _engine_cores() -> list[psutil.Process]:
    """The processes of vLLM's own that engines of this process run in."""
    return [child for child in psutil.Process().children(recursive=True) if "EngineCore" in child.name()]
