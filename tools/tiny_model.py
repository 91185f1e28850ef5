"""Makes the tiny model for load tests: two small layers without weights, with the demo model's own tokenizer.

vLLM fills the weights in at random (`load_format: dummy`), so what it says is noise, but prompts, token ids and
text behave as with a real model, at a thousand tokens per second on two CPU cores.

    python -m tools.tiny_model [folder]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tools.demo_model import COMPLETE, ROOT, DemoModelError, make_demo_model
from tools.demo_model import DEFAULT_FOLDER as DEMO_FOLDER

DEFAULT_FOLDER = ROOT / "models" / "tiny-smollm2"
TINY_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
}
TOKENIZER_FILES = ("tokenizer.json", "chat_template.jinja", COMPLETE)


def make_tiny_model(folder: Path = DEFAULT_FOLDER, demo_folder: Path = DEMO_FOLDER) -> bool:
    """Make the tiny model in `folder` unless it is there; makes the demo model first where it is missing.

    Returns whether it was made. Raises `DemoModelError` when the demo model cannot be had.
    """
    if (folder / COMPLETE).exists():
        return False
    make_demo_model(demo_folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        built = Path(scratch) / "model"
        built.mkdir()
        config = json.loads((demo_folder / "config.json").read_text()) | TINY_SHAPE
        (built / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in TOKENIZER_FILES:
            shutil.copyfile(demo_folder / name, built / name)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(built, folder)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER)
    folder: Path = parser.parse_args().folder
    try:
        made = make_tiny_model(folder)
    except DemoModelError as error:
        print(f"tiny model: {error}", file=sys.stderr)
        return 1
    print(f"tiny model: {'ready' if made else 'already'} in {folder}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
