from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import psutil
import pytest
import ray
from ray.serve._private import default_impl, replica
from ray.serve._private.grpc_util import start_grpc_server
from ray.serve.config import gRPCOptions

from serve_app.router.serve.ray_private import listen_on_loopback


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray's own functions again afterwards."""
    monkeypatch.setattr(replica, "add_port_to_grpc_server", replica.add_port_to_grpc_server)
    monkeypatch.setattr(default_impl, "add_grpc_address", default_impl.add_grpc_address)
    yield


def host_of(port: int) -> set[str]:
    connections = psutil.Process().net_connections("tcp")
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN and each.laddr.port == port}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def hosts_of_serves_ports() -> tuple[set[str], set[str]]:
    """Where Serve's server for gRPC clients listens, and that for calls between deployments."""
    port = free_port()
    task, server = await start_grpc_server(
        lambda **_: None, gRPCOptions(port=port), event_loop=asyncio.get_running_loop()
    )
    between = grpc.aio.server()
    between_port = replica.add_port_to_grpc_server(between, "[::]:0")
    await between.start()
    try:
        return host_of(port), host_of(between_port)
    finally:
        await server.stop(None)
        await between.stop(None)
        task.cancel()


@pytest.mark.parametrize(("node", "hosts"), [("127.0.0.1", {"127.0.0.1"}), ("192.0.2.7", {"::"})])
async def test_ports_are_on_loopback_where_ray_is(monkeypatch: pytest.MonkeyPatch, node: str, hosts: set[str]) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: node)
    assert listen_on_loopback() == []
    listen_on_loopback()
    for found in await hosts_of_serves_ports():
        assert {each.removeprefix("::ffff:") for each in found} == hosts
