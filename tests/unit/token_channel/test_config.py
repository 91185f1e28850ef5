"""Settings are checked before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.token_channel.config import ChannelConfig


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"hosts": "auto"}, "hosts"),
        ({"host": "0.0.0.0"}, "wildcard"),
        ({"host": "::"}, "wildcard"),
        ({"host": "my-node"}, "IP address"),
        ({"port_range": [5000, 4000]}, "port_range"),
        ({"port_range": [0, 4000]}, "port_range"),
        ({"silence_timeout_s": 1.5}, "silence_timeout_s"),
        ({"heartbeat_interval_s": 0.05}, "status_interval_s"),
        ({"high_water_mark": 0}, "high_water_mark"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ChannelConfig(**values)


@pytest.mark.parametrize("host", ["auto", "127.0.0.1", "10.1.2.3", "fe80::1"])
def test_hosts_that_engines_can_reach_are_taken(host: str) -> None:
    assert ChannelConfig(host=host, port_range=(4000, 4000)).host == host
