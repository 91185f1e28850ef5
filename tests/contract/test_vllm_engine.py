"""The vLLM engine keeps the engine contract: a tiny model of random weights with a real tokenizer, on the CPU."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from serve_app.engine.vllm_config import VllmEngineConfig
from serve_app.engine.vllm_engine import VllmEngine
from tests.contract.engine_contract import EngineContract, LogprobsContract, Subject, TokenIdContract
from tests.support.generations import started

TINY_MODEL = Path(__file__).parents[2] / "models" / "tiny-smollm2"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject() -> AsyncIterator[Subject]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)

    def decode(token_ids: Sequence[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    config = VllmEngineConfig(
        model=str(TINY_MODEL), load_format="dummy", max_model_len=512, max_num_seqs=16, kv_cache_gib=0.25
    )
    async with started(VllmEngine(config)) as engine:
        yield Subject(engine, decode=decode)


@pytest.mark.slow
@pytest.mark.integration
class TestVllmEngine(EngineContract, TokenIdContract, LogprobsContract):
    """Nothing of its own: the contract is all."""
