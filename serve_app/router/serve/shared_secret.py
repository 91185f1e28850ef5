"""The application's secret, in Ray's key-value store: the same in all router replicas, whoever starts first."""

from __future__ import annotations

import secrets

from serve_app.router.serve.ray_private import stored_once

_NAMESPACE = "serve_app"


def shared_secret(application: str) -> bytes:
    """The secret of the Serve application of that name, 32 bytes; made when nobody asked before.

    It lives as long as the Ray cluster, so that ids given to clients outlive redeployments. Whoever can read the
    cluster's store can forge ids, as he could read every stream anyway. Blocks for a call to Ray's head.
    """
    return stored_once(_NAMESPACE, f"signing-key/{application}", secrets.token_bytes(32))
