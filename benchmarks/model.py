"""The state dict that is moved: tensors as many and as large as those of a language model."""

from __future__ import annotations

import math

import torch

LAYERS = 32
TENSORS = 9 * LAYERS + 2
_ROUND_TO = 8


def make_state_dict(size_bytes: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """290 bf16 tensors, named and shaped like a Llama of 32 layers with tied embeddings.

    Together they have `size_bytes` to within one row of the embedding, a quarter of it in the
    embedding (at least 1 MiB is wanted). The bytes are random, so nothing on the way can
    compress or share them; every page was written, so reading one costs no page fault.
    """
    elements = size_bytes // 2
    hidden = max(_ROUND_TO, _rounded(math.sqrt(elements * 3 / 4 / (12 * LAYERS))))
    inner = _rounded(hidden * 8 / 3)
    per_layer = 4 * hidden * hidden + 3 * hidden * inner + 2 * hidden
    vocabulary = max(1, (elements - LAYERS * per_layer - hidden) // hidden)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{prefix}.mlp.{name}.weight"] = (inner, hidden)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (hidden, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{name}.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(shape, generator) for name, shape in shapes.items()}


def total_bytes(state_dict: dict[str, torch.Tensor]) -> int:
    """The bytes of all tensors."""
    return sum(tensor.nbytes for tensor in state_dict.values())


def train(state_dict: dict[str, torch.Tensor]) -> None:
    """Changes one element of every tensor, so that old weights can't pass for new ones."""
    for tensor in state_dict.values():
        first = tensor.view(torch.int16).view(-1)[:1]
        first += 1


def work(state_dict: dict[str, torch.Tensor]) -> None:
    """What every trainer and explorer does between transfers: makes float32 temporaries.

    It matters because glibc's malloc learns from the blocks that a program frees: before the
    first large one it gives memory back to the kernel after every message, and takes it again.
    """
    for name, tensor in state_dict.items():
        if "embed" not in name:
            tensor.float().sum()


def _rounded(value: float) -> int:
    return round(value / _ROUND_TO) * _ROUND_TO


def _random(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    # As 64-bit integers: four times as fast as drawing every element.
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(generator=generator)
    return words.view(torch.bfloat16)[:count].view(shape)
