"""Each private name of Ray that we use exists in the installed version, with the signature that we count on."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import psutil
import pytest
import ray
from ray.experimental import internal_kv
from ray.serve._private import default_impl, grpc_util, replica
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.grpc_util import start_grpc_server
from ray.serve._private.replica_result import ReplicaResult
from ray.serve._private.router import AsyncioRouter, CurrentLoopRouter, Router, SingletonThreadRouter
from ray.serve.config import gRPCOptions
from ray.serve.context import ReplicaContext
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle
from ray.serve.request_router import RequestRouter

import serve_app
from serve_app.router.serve import ray_private
from serve_app.router.serve.ray_private import (
    MAX_GRPC_MESSAGE_BYTES,
    bound_grpc_messages,
    listed_replicas,
    listen_on_loopback,
)


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


async def test_one_grpc_message_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_util, "DEFAULT_GRPC_SERVER_OPTIONS", list(grpc_util.DEFAULT_GRPC_SERVER_OPTIONS))
    bound_grpc_messages()
    bound_grpc_messages()

    async def size(request: bytes, context: object) -> bytes:
        return str(len(request)).encode()

    server = grpc_util.gRPCGenericServer(lambda **_: None)
    handlers = {"Size": grpc.unary_unary_rpc_method_handler(size)}
    server.add_passthrough_service("Test")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/Test/Size")
            assert await call(b"a" * (MAX_GRPC_MESSAGE_BYTES - 1)) == str(MAX_GRPC_MESSAGE_BYTES - 1).encode()
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(b"a" * (MAX_GRPC_MESSAGE_BYTES + 1))
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        await server.stop(None)


# --- the private names, one by one


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (DeploymentHandle._init, "self"),
        (DeploymentHandle.is_initialized.fget, "self"),
        (DeploymentBroadcastResponse._fetch_replica_results_async, "self"),
        (ReplicaResult.get_async, "self"),
        (Router.running_replicas_populated, "self"),
        (internal_kv._internal_kv_put, "key value overwrite namespace"),
        (internal_kv._internal_kv_get, "key namespace"),
        (replica.add_port_to_grpc_server, "server address"),
        (default_impl.add_grpc_address, "grpc_server server_address"),
        (RequestRouter.update_replicas, "self replicas"),
        (RequestRouter.on_replica_actor_died, "self replica_id"),
        (RequestRouter.curr_replicas.fget, "self"),
    ],
    ids=lambda each: getattr(each, "__qualname__", ""),
)
def test_a_function_takes_what_it_is_given(function: Callable[..., Any], takes: str) -> None:
    parameters = inspect.signature(function).parameters.values()
    assert takes.split() == [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]


@pytest.mark.parametrize(
    "function", [DeploymentBroadcastResponse._fetch_replica_results_async, ReplicaResult.get_async]
)
def test_what_is_awaited_is_a_coroutine(function: Callable[..., Any]) -> None:
    assert inspect.iscoroutinefunction(function)


@pytest.mark.parametrize(
    ("owner", "attribute"),
    [
        (inspect.getmro(DeploymentHandle)[1], "_router"),
        (SingletonThreadRouter, "_asyncio_router"),
        (CurrentLoopRouter, "_asyncio_router"),
        (AsyncioRouter, "_request_router"),
        (RequestRouter, "_deployment_id"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_an_attribute_is_set_by_the_constructor(owner: type, attribute: str) -> None:
    classes = inspect.getmro(owner)[:-1]
    constructors = [inspect.getsource(vars(each)["__init__"]) for each in classes if "__init__" in vars(each)]
    assert any(f"self.{attribute}" in source for source in constructors)


def test_a_replica_knows_its_deployments_configuration() -> None:
    assert "_deployment_config" in [field.name for field in fields(ReplicaContext)]
    assert "max_ongoing_requests" in DeploymentConfig.model_fields


# --- what we make of them


def test_a_handles_replicas_are_known_once_serve_has_listed_some() -> None:
    replicas = {ReplicaID("one", DeploymentID("Router")): object(), ReplicaID("two", DeploymentID("Router")): object()}

    def handle(populated: bool, request_router: object) -> Any:
        inner = SimpleNamespace(_request_router=request_router)
        router = SimpleNamespace(_asyncio_router=inner, running_replicas_populated=lambda: populated)
        return SimpleNamespace(_router=router)

    assert listed_replicas(SimpleNamespace(_router=None)) is None
    assert listed_replicas(handle(False, None)) is None
    assert listed_replicas(handle(True, None)) is None
    assert listed_replicas(handle(True, SimpleNamespace(curr_replicas=replicas))) == frozenset({"one", "two"})
    assert listed_replicas(handle(True, SimpleNamespace(curr_replicas={}))) == frozenset()


PRIVATE = {"_init", "_router", "_asyncio_router", "_request_router", "_fetch_replica_results_async", "_deployment_id"}
PRIVATE |= {"_deployment_config", "_internal_kv_put", "_internal_kv_get"}
ROOT = Path(serve_app.__file__).parent


def private_uses(path: Path) -> list[str]:
    """Modules of Ray that are private, and attributes of the names above which are not the module's own (`self.`)."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ray."):
            found += [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("ray.")]
        elif isinstance(node, ast.Attribute) and node.attr in PRIVATE:
            own = isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr != "_deployment_id"
            found += [] if own else [f"_private: {node.attr}"]
    return [each for each in found if "_private" in each or "internal_kv" in each]


def test_nobody_else_uses_a_private_name_of_ray() -> None:
    users = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if private_uses(path)}
    assert users == {"router/serve/ray_private.py"}


def test_each_private_name_is_used() -> None:
    source = inspect.getsource(ray_private)
    assert [name for name in PRIVATE if name not in source] == []
