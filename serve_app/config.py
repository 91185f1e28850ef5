"""The application's configuration: `args` of the Serve config file, composed of each package's own section."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve_app.core.served_models import ServedModels, Target
from serve_app.engine.config import EngineConfig
from serve_app.ingress.config import IngressConfig
from serve_app.router.config import RouterConfig
from serve_app.telemetry.config import TelemetryConfig
from serve_app.token_channel.config import ChannelConfig

FAST_PATH_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
"""Ray Serve's fast path for HTTP and handle calls, and a controller that looks twice a second instead of ten times,
which costs a few per cent of a core less. Ray reads it where it starts, so no application can switch it on."""


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key at fault and what is allowed."""


class ModelConfig(BaseModel):
    """One served model."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    id: str = Field(min_length=1)
    """Name that clients send as `model`."""
    aliases: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Other names for the same model, as `[gpt-4o-mini]` for clients whose model name is fixed. They are listed in
    `/v1/models`; an answer names the model as its request did, metrics always by `id`. Default: none."""
    deployment: str = ""
    """Name of its engine deployment, for `deployments:` in the Serve config file. Default: `Engine-` and the id, with
    every character but letters, digits, `.`, `_` and `-` replaced by `-`."""
    max_concurrency: int = Field(default=32, ge=1)
    """Generations that one engine replica runs at once. Keep the deployment's `max_ongoing_requests`, which counts
    short control calls too, well above it; the smaller of the two is obeyed."""
    engine: EngineConfig
    """What computes it; `kind` decides which keys are allowed."""

    @property
    def deployment_name(self) -> str:
        """Name of the engine deployment."""
        return self.deployment or "Engine-" + re.sub(r"[^A-Za-z0-9._-]", "-", self.id)


class AppConfig(BaseModel):
    """Everything under `args:`. Options that Serve owns (`num_replicas`, `autoscaling_config`,
    `max_ongoing_requests`, `ray_actor_options`) stay under `deployments:`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    router: RouterConfig = RouterConfig()
    channel: ChannelConfig = ChannelConfig()
    ingress: IngressConfig = IngressConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    def served_models(self) -> ServedModels:
        """What the names that clients send stand for; ids come before aliases."""
        pools = {model.id: (model.deployment_name,) for model in self.models}
        names = {model.id: Target(model.id) for model in self.models}
        aliases = {alias: Target(model.id) for model in self.models for alias in model.aliases}
        return ServedModels(pools, names | aliases)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (
            ("id or alias", [name for model in self.models for name in (model.id, *model.aliases)]),
            ("deployment", ["Router", *(model.deployment_name for model in self.models)]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} used more than once: {', '.join(twice)}")
        return self


def load_config(args: Mapping[str, Any]) -> AppConfig:
    """Validate `args`. Raises `ConfigError` naming every key at fault."""
    try:
        return AppConfig.model_validate(dict(args))
    except ValidationError as error:
        problems = [dict(problem) for problem in error.errors()]
        lines = [_explain(problem) for problem in problems if not _is_consequence(problem, problems)]
        raise ConfigError("wrong configuration (args):\n  " + "\n  ".join(lines)) from None


def missing_fast_path(environment: Mapping[str, str]) -> list[str]:
    """The settings of Serve's fast path, as `NAME=value`, that `environment` lacks."""
    return [f"{name}={value}" for name, value in FAST_PATH_ENVIRONMENT.items() if environment.get(name) != value]


def _is_consequence(problem: dict[str, Any], problems: Iterable[dict[str, Any]]) -> bool:
    """Whether a list is called too short only since pydantic left out its items, which have problems of their own."""
    where = problem["loc"]
    return problem["type"] == "too_short" and any(
        len(other["loc"]) > len(where) and other["loc"][: len(where)] == where for other in problems
    )


def _explain(problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path) or "args"
    if problem["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_allowed_keys(path[:-1])))
        return f"{name}: unknown key; allowed: {allowed}"
    return f"{name}: {problem['msg']} (got {problem.get('input')!r})"


def _allowed_keys(path: Iterable[str]) -> set[str]:
    """The keys of the section at `path`; parts that are no field (list places, union tags) are passed over."""
    sections: list[Any] = [AppConfig]
    for part in path:
        found = [
            section
            for parent in sections
            if part in parent.model_fields
            for section in _models_in(parent.model_fields[part].annotation)
        ]
        tagged = [section for section in sections if _kind(section) == part]
        sections = found or tagged or sections
    return {key for section in sections for key in section.model_fields}


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _kind(section: Any) -> Any:
    return section.model_fields["kind"].default if "kind" in section.model_fields else None
