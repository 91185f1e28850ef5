"""What the application is put together of."""

from __future__ import annotations

import pickle

from ray import cloudpickle

from serve_app.app import build_app

ARGS = {"models": [{"id": "m", "deployment": "Engine", "engine": {"kind": "simulated"}}]}


def test_one_authenticator_and_one_account_of_bytes_serve_all_protocols() -> None:
    api, grpc_services, handle_api, *_ = build_app(ARGS)._bound_deployment.init_args
    for name in ("authenticator", "under_way"):
        assert api.keywords[name] is grpc_services.keywords[name]
    in_replica = pickle.loads(cloudpickle.dumps((api, grpc_services, handle_api)))
    for name in ("authenticator", "under_way"):
        assert in_replica[0].keywords[name] is in_replica[1].keywords[name]
