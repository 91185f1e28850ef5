"""The small bounds that the router world drives a core with, and its naive model knows."""

from __future__ import annotations

from serve_app.router.config import RouterConfig

MODEL = "m"
ENGINES = ("a", "b", "c")
TENANTS = ("x", "y", "z")
CAPACITY = 3
MAX_RETRIES = 2
MAX_LOSSES = 2
QUEUE_TIMEOUT_S = 40.0
DISPATCH_TIMEOUT_S = 30.0
STALL_CEILING_S = 30.0
BUDGET_SHARE = 0.2
BUDGET_MINIMUM = 2
BAND_REQUESTS = 4
BAND_TOKENS = 400
IN_LINE = 3
HEDGE_TARGET_S = 8.0
TYPICAL_S = 0.3


def config(when_full: str, hedging: str) -> RouterConfig:
    """Small bounds, so that all of them are met; many hedges, unless they are `off`."""
    bands = {band: {"requests": BAND_REQUESTS, "tokens": BAND_TOKENS} for band in ("interactive", "default", "batch")}
    return RouterConfig.model_validate(
        {
            "admission": {
                "bands": bands,
                "when_full": when_full,
                "queue_timeout_s": QUEUE_TIMEOUT_S,
                "in_line_limit": IN_LINE,
                "tenant_weights": {"x": 2.0},
            },
            "dispatch_timeout_s": DISPATCH_TIMEOUT_S,
            "no_engine_timeout_s": 50.0,
            "timeouts": {
                "first_token_floor_s": 4.0,
                "first_token_cold_floor_s": 8.0,
                "first_token_ceiling_s": 40.0,
                "stall_ceiling_s": STALL_CEILING_S,
            },
            "retry": {
                "max_retries": MAX_RETRIES,
                "budget": {"share": BUDGET_SHARE, "min_retries": BUDGET_MINIMUM},
            },
            "hedging": {
                "enabled": hedging != "off",
                "target_s": HEDGE_TARGET_S,
                "lead": HEDGE_TARGET_S / TYPICAL_S,
                "same_replica": hedging == "same_replica",
            },
            "failover": {"max_losses": MAX_LOSSES, "drain_handover_s": 10.0},
            "replicas": {"breaker": {"consecutive_failures": 2}},
        }
    )
