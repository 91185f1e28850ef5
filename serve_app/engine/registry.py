"""Engine kinds. Each is imported only when it is used: an engine may need packages that the others do not."""

from __future__ import annotations

from serve_app.core.interfaces import Engine
from serve_app.engine.config import EngineConfig
from serve_app.engine.vllm.config import VllmEngineConfig


def build_engine(config: EngineConfig) -> Engine:
    """The engine that `config` describes, not started yet."""
    if isinstance(config, VllmEngineConfig):
        from serve_app.engine.vllm.engine import VllmEngine

        return VllmEngine(config)

    from serve_app.engine.simulated.engine import SimulatedEngine

    return SimulatedEngine(config)
