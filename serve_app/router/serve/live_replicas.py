"""Passes Serve's list of running replicas from its request router to our router, within one process.

Serve builds request routers itself, from a pickled class that shares no globals with our code: the class imports this
module by name. That is why the subscriptions are module state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

ReplicasChanged = Callable[[frozenset[str]], None]
ReplicaDied = Callable[[str], None]

_lock = threading.Lock()
_listed: dict[str, frozenset[str]] = {}
_subscribers: dict[str, tuple[ReplicasChanged, ReplicaDied]] = {}


def subscribe(deployment: str, changed: ReplicasChanged, died: ReplicaDied) -> None:
    """Call `changed(unique ids)` at each change of the deployment's replicas, at once with what is known already, and
    `died(unique id)` when a replica's actor died. Called on Serve's threads; one subscriber per deployment."""
    with _lock:
        _subscribers[deployment] = (changed, died)
        known = _listed.get(deployment)
    if known is not None:
        changed(known)


def publish(deployment: str, replicas: frozenset[str]) -> None:
    """Serve lists these running replicas now. Thread-safe."""
    with _lock:
        _listed[deployment] = replicas
        subscriber = _subscribers.get(deployment)
    if subscriber is not None:
        subscriber[0](replicas)


def publish_death(deployment: str, replica: str) -> None:
    """The replica's actor died. Thread-safe."""
    with _lock:
        subscriber = _subscribers.get(deployment)
    if subscriber is not None:
        subscriber[1](replica)


def listed(deployment: str) -> frozenset[str]:
    """The running replicas that Serve listed last. Thread-safe."""
    with _lock:
        return _listed.get(deployment, frozenset())
