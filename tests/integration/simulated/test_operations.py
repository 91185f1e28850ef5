"""What operators see and do: Ray's dashboard and metrics agent, deployments that fail, and redeployments."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from serve_app.ingress.grpc.proto.chat_pb2 import ChatRequest, ChatResponse
from tests.integration.simulated.applications import NARROW, SIMULATED
from tests.support.applications import Config
from tests.support.chat_socket import ChatSocket
from tests.support.grpc_client import GrpcClient
from tests.support.polling import eventually, eventually_async
from tests.support.scrape import Scrape
from tests.support.serve_cluster import START_TIMEOUT_S, ServeCluster
from tests.support.served_app import ServedApp, chat
from tests.support.sse_client import StreamedAnswer
from tools import procfs

EXPORTED_WITHIN_S = 30.0


def test_dashboard_shows_deployments_with_their_replicas(simulated: ServeCluster) -> None:
    shown = eventually(lambda: _when_running(simulated, "pair"), 30.0, "the application runs")
    counts = {
        name: (deployment["status"], len(deployment["replicas"]), deployment["target_num_replicas"])
        for name, deployment in shown["deployments"].items()
    }
    assert counts == {
        "Router": ("HEALTHY", 2, 2),
        "Engine-alpha": ("HEALTHY", 2, 2),
        "Engine-beta": ("HEALTHY", 1, 1),
    }


async def test_rays_metrics_agent_shows_our_metrics(pair: ServedApp) -> None:
    assert (await pair.stream(chat("beta", 20))).complete
    name = "serve_app_output_tokens_total"
    own = await pair.scrape()
    # Of living routers only: the agent shows the counts of one that died for some time more.
    tokens = {each: own.total(name, replica=each, model="beta") for each in own.labels("replica", name)}
    assert sum(tokens.values()) > 0

    async def agent_agrees() -> bool:
        page = Scrape((await pair.http.get(pair.cluster.metrics_agent_url)).text)
        labels = {"deployment": "Router", "model": "beta"}
        return tokens == {each: page.total(f"ray_{name}", replica=each, **labels) for each in tokens}

    await eventually_async(agent_agrees, EXPORTED_WITHIN_S, f"Ray's agent shows the output tokens {tokens}")


async def test_unknown_key_fails_the_deployment_and_names_what_is_allowed(simulated: ServeCluster) -> None:
    running = await asyncio.to_thread(simulated.replicas, "narrow", "Router")
    wrong = copy.deepcopy(NARROW)
    wrong["name"], wrong["route_prefix"] = "wrong", "/wrong"
    wrong["args"]["router"]["admision"] = {}
    simulated.deploy({"applications": [*SIMULATED["applications"], wrong]})
    try:
        message = await asyncio.to_thread(
            eventually, lambda: _failure(simulated, "wrong"), START_TIMEOUT_S, "the deployment fails"
        )
    finally:
        simulated.deploy(SIMULATED)
    assert "router.admision: unknown key" in message
    assert "admission" in message, "the allowed keys are named"
    await asyncio.to_thread(eventually, lambda: "wrong" not in simulated.applications(), 30.0, "it is removed")
    assert await asyncio.to_thread(simulated.replicas, "narrow", "Router") == running, "the others were not restarted"


async def test_engine_replica_added_by_redeploying_serves_at_once_and_streams_go_on(
    simulated: ServeCluster, narrow: ServedApp
) -> None:
    received = [StreamedAnswer(), StreamedAnswer()]
    running = [asyncio.create_task(narrow.stream(chat("narrow", 8000), answer)) for answer in received]
    await narrow.until_generating(2)
    before = await asyncio.to_thread(simulated.replicas, "narrow", "Router")
    try:
        await asyncio.to_thread(simulated.deploy, _with_replicas("narrow", "Engine-narrow", 2))
        further = [asyncio.create_task(narrow.stream(chat("narrow", 200))) for _ in range(2)]
        await narrow.until_generating(4, timeout_s=60.0)
        assert all(answer.complete for answer in await asyncio.gather(*further))
        assert await asyncio.to_thread(simulated.replicas, "narrow", "Router") == before
        assert not any(stream.done() for stream in running)
        assert all(len(answer.chunks) > 200 for answer in received), "they went on meanwhile"
    finally:
        for stream in running:
            stream.cancel()
        await asyncio.wait(running)
        await asyncio.to_thread(simulated.deploy, SIMULATED)

    async def one_is_left() -> bool:
        return len((await narrow.scrape()).labels("engine", "serve_app_engine_ready")) == 1

    await eventually_async(one_is_left, 30.0, "the second engine replica is gone again")


async def test_a_router_that_is_replaced_is_not_held_up_by_connections_that_stay(
    simulated: ServeCluster, narrow: ServedApp
) -> None:
    (old,) = await asyncio.to_thread(simulated.replicas, "narrow", "Router")
    async with ChatSocket(narrow.url) as idle, ChatSocket(narrow.url) as busy, GrpcClient(narrow) as client:
        await busy.ask("a", chat("narrow", 600))
        assert (await busy.hear())["type"] == "accepted"
        call = client.chat.BiStreamChat(metadata=client.metadata)
        await call.write(ChatRequest(prompt="hi", max_tokens=5, id="1"))
        watch = client.health.Watch(HealthCheckRequest(), metadata=client.metadata)
        assert (await watch.read()).status == HealthCheckResponse.SERVING
        try:
            await asyncio.to_thread(simulated.deploy, _with_router("narrow", no_engine_timeout_s=31.0))
            async with asyncio.timeout(60.0):
                assert await _close_code(idle) == 1012
                answers: list[ChatResponse] = []
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    async for message in call:
                        answers.append(message)
                assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
                assert await watch.read() is grpc.aio.EOF
                answer = await busy.read()
                assert answer.last["finish_reason"] == "length", "what was open is answered to its end"
                assert await _close_code(busy) == 1012
            assert [message.error.code for message in answers if message.HasField("error")] == ["replica_leaving"]
            await asyncio.to_thread(eventually, lambda: procfs.read(old.pid) is None, 30.0, "the old router has gone")
        finally:
            await asyncio.to_thread(simulated.deploy, SIMULATED)
    await asyncio.to_thread(eventually, lambda: _when_running(simulated, "narrow"), START_TIMEOUT_S, "narrow is whole")


async def _close_code(socket: ChatSocket) -> int | None:
    await socket.connection.wait_closed()
    return socket.connection.close_code


def _when_running(cluster: ServeCluster, name: str) -> dict[str, Any] | None:
    shown: dict[str, Any] = cluster.applications()[name]
    deployments = shown["deployments"].values()
    settled = all(each["status"] == "HEALTHY" for each in deployments)
    return shown if settled and shown["status"] == "RUNNING" else None


def _failure(cluster: ServeCluster, name: str) -> str:
    shown = cluster.applications().get(name, {})
    return str(shown["message"]) if shown.get("status") == "DEPLOY_FAILED" else ""


def _with_router(name: str, **settings: float) -> Config:
    config = copy.deepcopy(SIMULATED)
    (application,) = (each for each in config["applications"] if each["name"] == name)
    application["args"]["router"] |= settings
    return config


def _with_replicas(name: str, deployment: str, count: int) -> Config:
    config = copy.deepcopy(SIMULATED)
    (application,) = (each for each in config["applications"] if each["name"] == name)
    (options,) = (each for each in application["deployments"] if each["name"] == deployment)
    options["num_replicas"] = count
    return config
