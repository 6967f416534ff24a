"""The benchmark runs and reports what it saw. How fast anything is, is not tested here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import model
from benchmarks.rounds import (
    SOCKET,
    TRANSFERS,
    TRANSPORTS,
    WARM_UP_ROUNDS,
    WAYS,
    Results,
    Sample,
    summary,
)

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks` from the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_small_run_from_end_to_end(tmp_path: Path) -> None:
    figures, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    done = run("--size", "2MiB", "--repeat", "2", "--json", str(figures), "--picture", str(picture))
    assert done.returncode == 0, done.stderr
    assert "round 2 of 2" in done.stdout
    report = json.loads(figures.read_text())
    assert report["rounds"] == 2
    assert abs(report["size_bytes"] - 2 * MIB) < 0.01 * MIB
    assert report["first_pushes_seconds"].keys() == set(TRANSPORTS)
    assert {len(taken) for taken in report["first_pushes_seconds"].values()} == {WARM_UP_ROUNDS}
    for way in WAYS:
        row = report["ways"][way]
        assert len(row["seconds"]) == 2
        assert 0 < row["gib_per_s"]["min"] <= row["gib_per_s"]["median"] <= row["gib_per_s"]["max"]
        assert len(row["cpu_seconds_per_gib"]) == 2
    assert report["ways"][SOCKET]["ratio_to_plain_socket"]["median"] == 1.0
    assert report["machine"]["grpcio"][0].isdigit()
    assert report["server_anonymous_mib_peak"] > 10
    assert socket.gethostname() not in figures.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "big"], "'big' is no size: use 64MiB"),
        (["--size", "0MiB"], "'0MiB' is no size"),
        (["--repeat", "0"], "'0' rounds: 1 or more"),
        (["--repaet", "3"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_ratios_compare_samples_of_the_same_round() -> None:
    results = Results(1 << 30, blobs_on_tmpfs=True, fresh_processes=False)
    for socket_seconds, push_seconds in [(1.0, 2.0), (4.0, 8.0), (2.0, 5.0)]:
        results.samples[SOCKET].append(Sample(socket_seconds, {"sender": 0.5, "receiver": 1.0}))
        for way in TRANSFERS:
            seconds = push_seconds if way == "push http" else socket_seconds
            results.samples[way].append(Sample(seconds, {"client": 1.0, "server": 3.0}))
    assert results.ratios("push http") == [0.5, 0.5, 0.4]
    figures = summary(results)
    push = figures["push http"]
    assert push["ratio_to_plain_socket"] == {"median": 0.5, "min": 0.4, "max": 0.5}
    assert push["gib_per_s"]["median"] == 0.2
    assert push["cpu_seconds_per_gib"] == {"client": 1.0, "server": 3.0}


def test_the_weights_are_those_of_a_model_of_290_tensors() -> None:
    state_dict = model.make_state_dict(4 * MIB)
    assert len(state_dict) == model.TENSORS == 290
    assert {str(tensor.dtype) for tensor in state_dict.values()} == {"torch.bfloat16"}
    row = state_dict["model.embed_tokens.weight"].shape[1] * 2
    assert 4 * MIB - row <= model.total_bytes(state_dict) <= 4 * MIB
    bits = {name: tensor.view(torch.int16) for name, tensor in state_dict.items()}
    before = {name: tensor.clone() for name, tensor in bits.items()}
    model.train(state_dict)
    assert not any(before[name].equal(tensor) for name, tensor in bits.items())
