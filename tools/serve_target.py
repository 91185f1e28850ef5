"""What a Serve config file will serve, and where: read before anything is started."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_LOCAL_SERVICES = "add_local_services"
"""The gRPC services that only answer clients on this machine, see `serve_app.ingress.grpc.server`."""


class StartError(Exception):
    """Serving cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ServeTarget:
    """The parts of a Serve config file that starting it needs to know."""

    config: Path
    host: str
    port: int
    grpc_port: int | None
    """None where gRPC is not served."""
    grpc_is_local: bool
    """Whether only clients on this machine may use gRPC, whatever `host` is."""
    route_prefix: str
    model_ids: tuple[str, ...]
    model_folders: tuple[str, ...]
    """`engine.model` of each model that has one."""
    args: dict[str, Any]

    @property
    def url(self) -> str:
        """Base URL under which this machine reaches it, without a slash at the end."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}{self.route_prefix.rstrip('/')}"


def read_target(config: Path) -> ServeTarget:
    """Read `config`. Raises `StartError` when it is missing or no Serve config of one application."""
    try:
        document = yaml.safe_load(config.read_text())
        application = document["applications"][0]
        http = document.get("http_options") or {}
        grpc = document.get("grpc_options") or {}
        args = application.get("args") or {}
        models = args.get("models") or []
        return ServeTarget(
            config=config,
            host=str(http.get("host", "0.0.0.0")),
            port=int(http.get("port", 8000)),
            grpc_port=int(grpc.get("port", 9000)) if grpc.get("grpc_servicer_functions") else None,
            grpc_is_local=any(str(name).endswith(_LOCAL_SERVICES) for name in grpc.get("grpc_servicer_functions", ())),
            route_prefix=str(application.get("route_prefix", "/")),
            model_ids=tuple(str(model["id"]) for model in models),
            model_folders=tuple(str(model["engine"]["model"]) for model in models if "model" in model["engine"]),
            args=args,
        )
    except OSError as error:
        raise StartError(f"cannot read {config}: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise StartError(f"{config} is not a Serve config file: {error!r}") from error


def with_port(target: ServeTarget, port: int, folder: Path) -> ServeTarget:
    """Write a copy of the target's config file with another HTTP port to `folder` and return that target.

    The port for gRPC moves as far as that one does, so that two applications on one machine keep apart.
    """
    document = yaml.safe_load(target.config.read_text())
    document.setdefault("http_options", {})["port"] = port
    if target.grpc_port is not None:
        document["grpc_options"]["port"] = target.grpc_port + port - target.port
    copy = folder / target.config.name
    copy.write_text(yaml.safe_dump(document, sort_keys=False))
    return read_target(copy)


def behind_haproxy(target: ServeTarget, folder: Path) -> ServeTarget:
    """The same target, of which Serve itself only sees that it serves on loopback: HAProxy alone listens on `host`.

    Where `host` is loopback that is so already. Otherwise Ray's HAProxy would look for the routers on loopback, where
    they are not, and the routers' own ports would be open as well.
    """
    if target.host in LOCAL_HOSTS:
        return target
    document = yaml.safe_load(target.config.read_text())
    document.setdefault("http_options", {})["host"] = LOCAL_HOSTS[0]
    copy = folder / f"local-{target.config.name}"
    copy.write_text(yaml.safe_dump(document, sort_keys=False))
    return replace(target, config=copy)


def require_free_port(host: str, port: int, http_port: int | None = None) -> None:
    """Raise `StartError` when nobody could listen on `host`:`port` now; `http_port` if that is not the one for HTTP."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise StartError(f"cannot listen on {host}:{port}: {error.strerror}") from error
            raise StartError(
                f"port {port} on {host} is in use. Stop what uses it (`ss -ltnp | grep :{port}` names it), "
                f"or choose another: make run PORT={(http_port or port) + 1}"
            ) from error
