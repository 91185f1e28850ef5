"""Builds the Serve application from its configuration. The only place that binds deployments."""

from functools import partial
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig

from serve_app.config import AppConfig, ModelConfig, load_config
from serve_app.engine.deployment import EngineDeployment
from serve_app.ingress.http_api import build_api
from serve_app.router.deployment import ROUTER_DEPLOYMENT, RouterDeployment
from serve_app.router.pinned_calls import PINNED_REQUEST_ROUTER

LONGEST_GENERATION_S = 600.0
"""Serve kills a replica that still has calls this long after it was asked to stop."""


def build_app(args: dict[str, Any]) -> serve.Application:
    """The application that `args` describes: `import_path: serve_app.app:build_app` in a Serve config file.

    Raises `ConfigError` naming each key that is unknown or wrong.
    """
    config = load_config(args)
    engines = {model.id: _engine(model, config) for model in config.models}
    # Serve adds `x-request-id` to responses itself.
    api = partial(build_api, config=config.ingress, echo_request_id=False)
    router = serve.deployment(RouterDeployment).options(
        name=ROUTER_DEPLOYMENT,
        max_ongoing_requests=4096,
        ray_actor_options={"num_cpus": 0.5},
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=LONGEST_GENERATION_S,
    )
    return router.bind(api, config.router, config.channel, config.telemetry, engines)


def _engine(model: ModelConfig, config: AppConfig) -> serve.Application:
    deployment = serve.deployment(EngineDeployment).options(
        name=model.deployment_name,
        max_ongoing_requests=2 * model.max_concurrency + 32,
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=LONGEST_GENERATION_S,
        request_router_config=RequestRouterConfig(request_router_class=PINNED_REQUEST_ROUTER),
    )
    return deployment.bind(model.id, model.engine, model.max_concurrency, config.channel, config.telemetry)

