"""The `engine:` section of a model: which kind computes it, and that kind's own keys."""

from __future__ import annotations

from serve_app.engine.simulated_config import SimulatedEngineConfig

EngineConfig = SimulatedEngineConfig
