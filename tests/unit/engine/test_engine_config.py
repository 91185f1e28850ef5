from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from serve_app.engine.config import EngineConfig
from serve_app.engine.registry import build_engine
from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.simulated.engine import SimulatedEngine
from serve_app.engine.vllm.config import OWN_ENGINE_ARGS, VllmEngineConfig
from serve_app.engine.vllm.engine import VllmEngine

_ADAPTER: TypeAdapter[Any] = TypeAdapter(EngineConfig)


def test_kind_chooses_the_section() -> None:
    assert isinstance(_ADAPTER.validate_python({"kind": "simulated"}), SimulatedEngineConfig)
    assert isinstance(_ADAPTER.validate_python({"kind": "vllm", "model": "org/model"}), VllmEngineConfig)


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ValidationError, match=r"'vllm', 'simulated'"):
        _ADAPTER.validate_python({"kind": "magic"})


def test_unknown_key_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="max_model_length"):
        _ADAPTER.validate_python({"kind": "vllm", "model": "m", "max_model_length": 1})


def test_engine_args_take_what_has_no_field_and_refuse_what_has_one() -> None:
    assert VllmEngineConfig(model="m", engine_args={"quantization": "fp8"}).engine_args == {"quantization": "fp8"}
    for name in OWN_ENGINE_ARGS:
        with pytest.raises(ValidationError, match=name):
            VllmEngineConfig(model="m", engine_args={name: 1})


def test_each_kind_is_built_by_its_class() -> None:
    assert isinstance(build_engine(SimulatedEngineConfig()), SimulatedEngine)
    assert isinstance(build_engine(VllmEngineConfig(model="m")), VllmEngine)
