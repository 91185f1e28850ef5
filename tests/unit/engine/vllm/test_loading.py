from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from serve_app.engine.vllm.loading import prior_penalties

V2_INTERFACE = "vllm.v1.worker.gpu.sample.logits_processor"


def _config(v2: bool, speculative: object | None = None) -> SimpleNamespace:
    return SimpleNamespace(use_v2_model_runner=v2, speculative_config=speculative)


@pytest.fixture
def interface(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    parts = V2_INTERFACE.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    return sys.modules[V2_INTERFACE]


def test_each_model_runner_gets_its_own_processor(interface: ModuleType) -> None:
    interface.LogitsContext = object  # type: ignore[attr-defined]  # a module made here
    assert prior_penalties(_config(v2=False)) == "serve_app.engine.vllm.prior_penalties:PriorPenalties"
    assert prior_penalties(_config(v2=True)) == "serve_app.engine.vllm.prior_penalties_v2:PriorPenaltiesV2"


def test_v2_model_runner_that_takes_no_processors_gets_none(interface: ModuleType) -> None:
    assert prior_penalties(_config(v2=True)) is None


def test_speculative_decoding_takes_no_processors() -> None:
    assert prior_penalties(_config(v2=False, speculative=object())) is None
