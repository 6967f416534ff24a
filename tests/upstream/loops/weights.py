"""The weights of a training step: real tensors whose every value tells the step."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class WrongWeights(Exception):
    """What was loaded is no step's weights, whole and unchanged."""


def weights_of(step: int) -> dict[str, torch.Tensor]:
    """The state dict of that step, about 400 KiB in bf16, float32 and int64."""
    random = torch.Generator().manual_seed(step)
    return {
        "model.embed_tokens.weight": torch.randn(512, 256, generator=random).to(torch.bfloat16),
        "model.layers.0.mlp.weight": torch.randn(257, 129, generator=random),
        "model.layers.0.bias": torch.empty(0, dtype=torch.bfloat16),
        "model.norm.weight": torch.randn(256, generator=random).to(torch.bfloat16),
        "model.step": torch.tensor(step),
    }


def step_of(found: dict[str, torch.Tensor]) -> int:
    """Which step's weights these are. Raises WrongWeights unless every value is that step's."""
    if "model.step" not in found:
        raise WrongWeights(f"no model.step in {sorted(found)}")
    step = int(found["model.step"])
    expected = weights_of(step)
    if set(found) != set(expected):
        raise WrongWeights(f"step {step} has {sorted(found)}")
    for name, tensor in expected.items():
        got = found[name]
        if (got.dtype, got.shape) != (tensor.dtype, tensor.shape) or not torch.equal(got, tensor):
            raise WrongWeights(f"{name} is not that of step {step}")
    return step


def save(step: int, actor: Path) -> None:
    """Writes `actor`/model.safetensors, through a rename."""
    actor.mkdir(parents=True, exist_ok=True)
    half = actor / "model.safetensors.part"
    save_file(weights_of(step), half)
    half.replace(actor / "model.safetensors")


def load(actor: Path) -> dict[str, torch.Tensor]:
    """What upstream's `load_state_dict` loads of such a directory."""
    found: dict[str, torch.Tensor] = load_file(actor / "model.safetensors")
    return found
