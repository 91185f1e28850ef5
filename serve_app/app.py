"""Builds the Serve application from its configuration. The only place that binds deployments."""

import logging
import os
from functools import partial
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import LoggingConfig

from serve_app.config import AppConfig, ModelConfig, load_config, missing_fast_path
from serve_app.engine.deployment import EngineDeployment
from serve_app.ingress.api import build_api
from serve_app.ingress.bytes_under_way import BytesUnderWay
from serve_app.ingress.grpc.services import build_grpc
from serve_app.ingress.handle.api import build_handle_api
from serve_app.ingress.identity import AnyToken
from serve_app.router.serve.deployment import ROUTER_DEPLOYMENT, RouterDeployment
from serve_app.router.serve.pinned_calls import PINNED_REQUEST_ROUTER
from serve_app.router.serve.ray_private import listen_on_loopback

FAST_PATH_GAIN = "Through HAProxy a streamed token costs a fifth of the CPU or less (`make bench-overhead-simulated`)."

NO_ACCESS_LOG = LoggingConfig(enable_access_log=False)
"""The router writes one structured line per request; Serve's two of its own cost more than they tell."""

LONGEST_GENERATION_S = 600.0
"""Serve kills a replica that still has calls this long after it was asked to stop."""

logger = logging.getLogger("ray.serve")  # what Serve shows in the terminal of `serve run`


def build_app(args: dict[str, Any]) -> serve.Application:
    """The application that `args` describes: `import_path: serve_app.app:build_app` in a Serve config file.

    Raises `ConfigError` naming each key that is unknown or wrong.
    """
    config = load_config(args)
    if missing := missing_fast_path(os.environ):
        logger.info("Serve's fast path is off. %s Start Ray with: %s", FAST_PATH_GAIN, " ".join(missing))
    engines = {model.deployment_name: _engine(model, config) for model in config.models}
    # One of each for all protocols: Serve pickles them together, so they are one in the replica too.
    authenticator = AnyToken()
    under_way = BytesUnderWay(config.ingress.max_bytes_under_way)
    # Serve adds `x-request-id` to responses itself.
    api = partial(
        build_api, config=config.ingress, authenticator=authenticator, under_way=under_way, echo_request_id=False
    )
    grpc_services = partial(build_grpc, config=config.ingress, authenticator=authenticator, under_way=under_way)
    handle_api = partial(build_handle_api, config=config.ingress)
    router = serve.deployment(RouterDeployment).options(
        name=ROUTER_DEPLOYMENT,
        max_ongoing_requests=4096,
        ray_actor_options={"num_cpus": 0.5},
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=LONGEST_GENERATION_S,
        logging_config=NO_ACCESS_LOG,
    )
    served = config.served_models()
    return router.bind(api, grpc_services, handle_api, config.router, config.channel, config.telemetry, served, engines)


def _engine(model: ModelConfig, config: AppConfig) -> serve.Application:
    deployment = serve.deployment(EngineDeployment).options(
        name=model.deployment_name,
        max_ongoing_requests=2 * model.max_concurrency + 32,
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=LONGEST_GENERATION_S,
        logging_config=NO_ACCESS_LOG,
        request_router_config=RequestRouterConfig(request_router_class=PINNED_REQUEST_ROUTER),
    )
    return deployment.bind(
        model.id,
        model.engine,
        model.max_concurrency,
        config.channel,
        config.telemetry,
        config.router.retention,
        listen_on_loopback,
    )
