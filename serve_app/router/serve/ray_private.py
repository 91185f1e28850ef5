"""Everything that we use of Ray's private API: what a new version of Ray may break, each with a test.

Listeners. Ray Serve 2.60 opens its gRPC ports on all interfaces. Every replica has one for calls between deployments,
which unpickles what it gets; each router replica and Serve's proxy have another one for gRPC clients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ray
from ray.serve._private import default_impl, replica

_ALL_INTERFACES = "[::]:"
_LOOPBACK = "127.0.0.1"

AddPort = Callable[[Any, str], Any]


def listen_on_loopback() -> list[Any]:
    """Keep the gRPC ports that Serve opens in this process from now on on loopback, if Ray knows this machine by that.

    Otherwise other machines may have to reach them, and nothing changes. Made to be called by Serve where it starts a
    proxy (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`), which wants a list of middlewares: there are none.
    """
    if ray.util.get_node_ip_address() == _LOOPBACK:
        replica.add_port_to_grpc_server = _on_loopback(replica.add_port_to_grpc_server)
        default_impl.add_grpc_address = _on_loopback(default_impl.add_grpc_address)
    return []


def _on_loopback(add: AddPort) -> AddPort:
    @functools.wraps(add)
    def add_local(server: Any, address: str) -> Any:
        return add(server, address.replace(_ALL_INTERFACES, f"{_LOOPBACK}:", 1))

    return add_local
