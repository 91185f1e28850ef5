"""What the names that clients send as `model` stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.core.cut_text import cut
from serve_app.core.errors import ModelNotFound


@dataclass(frozen=True, slots=True)
class Target:
    """Where the requests of one served name go."""

    pool: str
    """Name of the pool of engine replicas: they share a queue, limits and metrics."""
    groups: frozenset[str] | None = None
    """Deployments of the pool that can compute it; None: all of them."""
    adapter: str | None = None
    """Adapter that the engine applies to the pool's model; None: the model itself."""
    fallback: str | None = None
    """Served name to ask instead where this one cannot be served; None: the request is refused."""


@dataclass(frozen=True, slots=True)
class ServedModels:
    """All served names of one application. Immutable.

    served = ServedModels(
        pools={"smol": ("Engine-smol",)},
        targets={"smol": Target("smol"), "gpt-4o-mini": Target("smol")},
    )
    served.resolve("gpt-4o-mini").pool  # "smol"
    """

    pools: Mapping[str, tuple[str, ...]]
    """The deployments of each pool. A pool's name is one of the served names."""
    targets: Mapping[str, Target]
    """By served name, in the order in which they are listed: the first is what a request gets that names none."""

    def resolve(self, name: str) -> Target:
        """What `name` stands for. Raises `ModelNotFound`."""
        target = self.targets.get(name)
        if target is None:
            raise ModelNotFound(f"The model {cut(name)!r} does not exist. Served: {', '.join(self.targets)}.", "model")
        return target


def one_pool_each(*models: str) -> ServedModels:
    """Models without aliases, each with one deployment of its own name."""
    return ServedModels({model: (model,) for model in models}, {model: Target(model) for model in models})
