from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks import overload_peers
from benchmarks.harness import our_stacks, peers
from benchmarks.harness.open_loop_answer import Answer, End
from benchmarks.harness.overload_report import OverloadReport, Step
from benchmarks.harness.stack import Stack

_STEP = Step(10.0, 5.0, 4.0, 10.0, 100, 2.0, 100.0)


def _report(name: str, good: int, ttft_s: float) -> OverloadReport:
    stack = Stack(name, "", "tiny", lambda _port, _folder: [])
    answers = [Answer(5.0, End.ANSWERED, 200, 3.0, 0.0, ttft_s, 100) for _ in range(good)]
    return OverloadReport(stack, _STEP, answers)


def test_targets_compare_this_application_with_the_best_peer_of_each_figure() -> None:
    reports = [_report("serve_app", 8, 1.0), _report("vllm serve", 4, 1.5), _report("ray serve llm", 2, 1.25)]
    found = [(target.measured, target.limit) for target in overload_peers.targets(reports)]
    assert found == [(0.5, 1.0), (0.8, 1.0), (0.5, 1.0)]


def test_without_a_peer_or_without_answers_of_ours_there_are_no_targets() -> None:
    assert overload_peers.targets([_report("serve_app", 8, 1.0)]) == []
    assert overload_peers.targets([_report("vllm serve", 8, 1.0)]) == []
    assert overload_peers.targets([_report("serve_app", 0, 1.0), _report("vllm serve", 8, 1.0)]) == []


def test_every_stack_has_the_same_engine_options(tmp_path: Path) -> None:
    engine = {**peers.ENGINE_OPTIONS, "max_num_seqs": 48}
    router = {"first_token_objectives_s": {"default": 2.0}}
    ours = our_stacks.with_vllm(Path("m"), engine, 48, router)[0]
    ray = peers.ray_serve_llm(Path("python"), Path("m"), engine)[0]
    configs = {}
    for stack in (ours, ray):
        folder = tmp_path / stack.name.replace(" ", "-")
        folder.mkdir()
        stack.command(8000, folder)
        configs[stack.name] = yaml.safe_load((folder / "serve.yaml").read_text())["applications"][0]["args"]
    model = configs["serve_app"]["models"][0]
    assert {name: model["engine"][name] for name in engine} == engine
    assert configs["ray serve llm"]["llm_configs"][0]["engine_kwargs"] == engine
    assert "--max-num-seqs 48" in " ".join(peers.vllm_serve(Path("python"), Path("m"), engine).command(8000, tmp_path))
    assert model["max_concurrency"] == 48
    assert configs["serve_app"]["router"]["first_token_objectives_s"] == {"default": 2.0}


def test_a_peers_engine_is_one_process_and_keeps_the_rest_of_its_environment(tmp_path: Path) -> None:
    peer = peers.vllm_serve(Path("python"), Path("m"))
    variables = overload_peers.in_one_process(peer).environment(tmp_path)
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert peers.ENGINE_ENVIRONMENT.items() <= variables.items()


def test_the_embedded_routers_other_settings_stay(tmp_path: Path) -> None:
    our_stacks.with_vllm(Path("m"), router={"no_engine_timeout_s": 5.0})[0].command(8000, tmp_path)
    router = yaml.safe_load((tmp_path / "serve.yaml").read_text())["applications"][0]["args"]["router"]
    assert router == {"admission": {"when_full": "refuse"}, "no_engine_timeout_s": 5.0}


def test_a_missing_model_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"tools\.tiny_model"):
        overload_peers.main(model_dir=tmp_path)
