"""The `engine:` section of a model: which kind computes it, and that kind's own keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from serve_app.engine.simulated.config import SimulatedEngineConfig
from serve_app.engine.vllm.config import VllmEngineConfig

EngineConfig = Annotated[VllmEngineConfig | SimulatedEngineConfig, Field(discriminator="kind")]
"""One of the engine kinds, told apart by `kind`."""
