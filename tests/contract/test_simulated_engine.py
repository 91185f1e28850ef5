"""The simulated engine keeps the engine contract: with the cost model, under preemption, and at a fixed pace."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.engine import SimulatedEngine
from serve_app.engine.simulated.vocabulary import decode
from tests.contract.continuation_contract import ContinuationContract
from tests.contract.engine_contract import EngineContract, LogprobsContract, Subject, TokenIdContract
from tests.support.generations import started

_QUICK = SimulatedEngineConfig(
    max_model_len=512, max_running=12, prefill_s_per_token=1e-6, decode_base_s=0.0005, decode_s_per_sequence=1e-6
)
_CONFIGS = {
    "cost_model": _QUICK,
    "preempting": _QUICK.model_copy(update={"kv_capacity_tokens": 512, "prefill_chunk_tokens": 16}),
    "fixed_step": _QUICK.model_copy(update={"step_s": 0.001}),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=_CONFIGS)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    async with started(SimulatedEngine(_CONFIGS[request.param])) as engine:
        yield Subject(engine, decode=decode)


class TestSimulatedEngine(EngineContract, TokenIdContract, LogprobsContract, ContinuationContract):
    """Nothing of its own: the contract is all."""
