"""A mapped version as tensors."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sync_client import errors
from sync_client.shared_memory import Mapped
from sync_client.types import Pulled


def as_pulled(mapped: Mapped, names: Sequence[str], started: float) -> Pulled:
    """A mapped version as tensors: usable at once, whatever its size."""
    # Torch is imported only where it is needed.
    from sync_client.tensors import UnsupportedTensor, state_dict_digest, tensor_from_buffer

    layout, _ = mapped.select(names)
    whole = mapped.layout.by_name()
    try:
        state_dict = {
            entry.name: tensor_from_buffer(mapped.memory, mapped.layout, whole[entry.name])
            for entry in layout.tensors
        }
    except UnsupportedTensor as error:
        raise errors.TensorRefused(str(error)) from error
    return Pulled(
        version=mapped.version.version,
        state_dict=state_dict,
        transport="shared-memory",
        wire_bytes=0,
        seconds=time.monotonic() - started,
        digest=state_dict_digest(state_dict) if names else mapped.version.digest,
    )
