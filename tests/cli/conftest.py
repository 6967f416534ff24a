"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from tests.cli.runner import Ended, weightsync
from tests.servers import ServerProcess

Cli = Callable[..., Ended]
MakeFile = Callable[..., Path]


@pytest.fixture
def cli(server: ServerProcess, run_id: str) -> Cli:
    """Runs a client command against the shared server, in a run of its own."""
    env = {"WEIGHTSYNC_SERVER": server.address, "WEIGHTSYNC_RUN": run_id}
    return lambda *arguments: weightsync(*arguments, env=env)


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Writes a safetensors file of two tensors: another `seed`, other bytes."""

    def make(seed: int = 0, rows: int = 300) -> Path:
        rng = numpy.random.default_rng(seed)
        path = tmp_path / f"model-{seed}.safetensors"
        weight = rng.standard_normal((rows, 1000), dtype=numpy.float32)
        save_file({"weight": weight, "bias": rng.integers(0, 9, 7)}, path)
        return path

    return make
