"""State dicts to send through the server's files, and how to let clients see those."""

from __future__ import annotations

import torch

ON = {"WEIGHTSYNC_SHARED_MEMORY": "true"}


def weights(seed: int = 0, rows: int = 100) -> dict[str, torch.Tensor]:
    """Tensors of several kinds and sizes, among them empty ones and one of a byte."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(rows, 33, generator=generator).to(torch.bfloat16),
        "b": torch.randn(7, generator=generator, dtype=torch.float64),
        "c": torch.tensor([seed % 2], dtype=torch.bool),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(1.5),
    }


def same(found: object, expected: dict[str, torch.Tensor]) -> bool:
    """Byte for byte."""
    assert isinstance(found, dict)
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in expected.items()
    )
