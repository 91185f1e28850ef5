from __future__ import annotations

import pytest

from serve_app.core.errors import EngineLost
from serve_app.router.serve.engine_caller import ServeEngineCaller
from serve_app.token_channel.endpoint import LiveStreams


async def test_a_replica_whose_deployment_is_not_known_yet_is_no_unexpected_error() -> None:
    with pytest.raises(EngineLost):
        await ServeEngineCaller({}).keep_only("e1", "", LiveStreams("r", 1, {}))
