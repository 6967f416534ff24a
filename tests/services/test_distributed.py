"""Four real ranks (FSDP2, tensor parallelism, both) push their DTensors; what arrives is whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sync_client import SyncClient
from sync_client.tensors import state_dict_digest
from tests.servers import running_server

WORLD = 4
RUN = "distributed"
DEAD = 2
_SCRIPT = Path(__file__).with_name("rank.py")
Outcome = dict[str, Any]


@dataclass
class Ranks:
    """What all ranks reported, by rank, and where to look for it."""

    address: str
    directory: Path
    pushed: list[dict[str, Outcome]]
    """By case."""
    last: dict[int, Outcome]
    """Of those that lived, after one died."""
    log: str

    def case(self, name: str) -> list[Outcome]:
        """One case on every rank."""
        return [found[name] for found in self.pushed]


def start(rank: int, directory: Path, *addresses: str) -> subprocess.Popen[str]:
    """One rank."""
    words = [rank, WORLD, *addresses, RUN, directory]
    # Gloo would else look for the address of the machine's name, which may have none.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with (directory / f"{rank}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, str(_SCRIPT), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )


def logs(directory: Path) -> str:
    """What the ranks wrote to standard error."""
    return "\n".join(path.read_text(errors="replace") for path in sorted(directory.glob("*.log")))


def report(process: subprocess.Popen[str], directory: Path) -> Any:
    """The next line of a rank."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"a rank ended early:\n{logs(directory)}"
    return json.loads(line)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """All pushes of all ranks, done once; their versions stay for the module's tests."""
    directory = tmp_path_factory.mktemp("ranks")
    with (
        running_server(options=["--keep-versions", "100", "--shard-wait-seconds", "10"]) as server,
        running_server(options=["--shard-wait-seconds", "2"]) as hasty,
    ):
        started = [start(r, directory, server.address, hasty.address) for r in range(WORLD)]
        try:
            pushed = [report(process, directory) for process in started]
            started[DEAD].send_signal(signal.SIGKILL)
            started[DEAD].wait(10)
            living = {rank: process for rank, process in enumerate(started) if rank != DEAD}
            for process in living.values():
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            last = {rank: report(process, directory) for rank, process in living.items()}
        finally:
            for process in started:
                process.kill()
                process.communicate()
        yield Ranks(server.address, directory, pushed, last, logs(directory))


# Where the tensors of a case have to lie, so that it tests what its name says.
PLACED = {
    "fsdp": {"up.weight": ["S(0)"], "down.bias": ["S(0)"]},
    "fsdp by columns": {"weight": ["S(1)"]},
    "hybrid": {"up.weight": ["R", "S(0)"]},
    "tensor parallel": {"up.weight": ["S(0)"], "down.weight": ["S(1)"], "down.bias": ["R"]},
    "fsdp over rows": {"0.weight": ["S(0)", "S(1)"], "1.bias": ["S(0)", "R"]},
    "fsdp over columns": {"0.weight": ["_S(0, 2)", "S(0)"], "1.weight": ["S(0)", "S(1)"]},
    "replicated": {"up.weight": ["R"]},
    "placements": {"twice": ["S(0)", "S(0)"], "some.ranks": ["S(0)"], "scalar": ["R", "R"]},
    "by rank": {},
}


@pytest.mark.parametrize("case", PLACED)
def test_what_arrives_is_whole(ranks: Ranks, case: str) -> None:
    outcomes = ranks.case(case)
    assert not [found for found in outcomes if "error" in found], outcomes
    for name, how in PLACED[case].items():
        assert outcomes[0]["placements"][name] == how
    reference = load_file(ranks.directory / f"{case}.safetensors")
    with SyncClient(ranks.address, RUN) as client:
        pulled = client.pull(outcomes[0]["version"])
    assert pulled.state_dict.keys() == reference.keys()
    for name, tensor in reference.items():
        arrived = pulled.state_dict[name]
        assert (arrived.dtype, arrived.shape) == (tensor.dtype, tensor.shape), name
        raw = [t.contiguous().flatten().view(torch.uint8) for t in (arrived, tensor)]
        assert torch.equal(*raw), name
    # All ranks got the same answer, and it is what a push in one piece would have got.
    assert {found["digest"] for found in outcomes} == {state_dict_digest(reference)}
    assert len({found["revision"] for found in outcomes}) == 1


def test_the_sizes_were_uneven(ranks: Ranks) -> None:
    empty = [set(found["empty"]) for found in ranks.case("fsdp")]
    # 10, 6 and 1 rows in four parts are 3 3 3 1, 2 2 2 0 and 1 0 0 0.
    assert "head.weight" not in empty[0]
    assert "norm.weight" not in empty[2]
    assert {"head.weight", "norm.weight", "down.weight"} <= empty[3]
    assert "up.weight" not in empty[3]


@pytest.mark.parametrize(
    ("case", "tensor", "said"),
    [
        ("strided", "interleaved", r"_StridedShard|_S\("),  # as torch prints it
        ("partial", "unsummed", r"Partial|P\(sum\)"),
        ("partial copies", "unsummed", r"Partial|P\(sum\)"),
    ],
)
def test_what_cannot_be_sent_is_refused_everywhere(
    ranks: Ranks, case: str, tensor: str, said: str
) -> None:
    for rank, found in enumerate(ranks.case(case)):
        assert found.get("error") == "TensorRefused", (rank, found)
        assert repr(tensor) in found["text"], (rank, found)
        assert re.search(said, found["text"]), (rank, found)
    with SyncClient(ranks.address, RUN) as client:
        numbers = {info.version for info in client.versions()}
    assert ranks.case(case)[0]["version"] not in numbers


def test_the_others_are_told_who_died(ranks: Ranks) -> None:
    assert set(ranks.last) == {0, 1, 3}
    for found in ranks.last.values():
        assert found.get("error") == "ShardMissing", found
        assert f"shard {DEAD} of {WORLD} did not come within 2 s" in found["text"]


def test_torch_complained_about_nothing_else(ranks: Ranks) -> None:
    assert "Traceback" not in ranks.log
