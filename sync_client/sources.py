"""What a push starts from, and which ways are open to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sync_client import errors
from sync_client.transfer import Source

if TYPE_CHECKING:
    import torch


def tensor_source(state_dict: Mapping[str, torch.Tensor]) -> Source:
    """A state dict as a source. Raises TensorRefused, before anything is sent."""
    from sync_client.tensors import StateDictSource, UnsupportedTensor  # imports torch

    try:
        return StateDictSource(state_dict)
    except UnsupportedTensor as error:
        raise errors.TensorRefused(str(error)) from error


def check_transport(transport: str | None, delta: bool | None) -> None:
    """Refuses what is unknown (InvalidArgument) and what can't be had (TransportUnavailable)."""
    if transport not in (None, "grpc", "http", "shared-memory"):
        raise errors.InvalidArgument(
            f"transport {transport!r}: grpc, http, shared-memory or None is allowed"
        )
    if delta:
        raise errors.TransportUnavailable("the server does not offer patches yet: use delta=None")
