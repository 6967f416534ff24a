"""The benchmark runs and reports what it saw. How fast anything is, is not tested here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import flight, model
from benchmarks.__main__ import main
from benchmarks.processes import Service, Watch, anonymous_bytes, directory_bytes
from benchmarks.results import Results, Sample, summary
from benchmarks.rivals import PACKAGES, missing
from benchmarks.rounds import WARM_UP_ROUNDS
from benchmarks.ways import MAPPED, MEMCPY, OURS, SOCKET, TRANSPORTS, all_ways, counterpart
from sync_client.tensors import state_dict_digest

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


def small_run(folder: Path, explorers: int, rivals: Sequence[str] = ()) -> None:
    """Measures 2 MiB in one round and reads everything that comes of it."""
    figures, picture = folder / "bench.json", folder / "bench.png"
    arguments = ["--size", "2MiB", "--repeat", "1", "--explorers", str(explorers)]
    arguments += ["--json", str(figures), "--picture", str(picture)]
    done = run(*arguments, *(["--with", ",".join(rivals)] if rivals else []))
    assert done.returncode == 0, done.stderr
    assert "round 1 of 1" in done.stdout
    assert "slowest over fastest" in done.stdout
    assert "x plain socket" in done.stdout
    report = json.loads(figures.read_text())
    assert report["rounds"] == 1
    assert report["explorers"] == explorers
    assert abs(report["size_bytes"] - 2 * MIB) < 0.01 * MIB
    assert report["first_pushes_seconds"].keys() == {*TRANSPORTS, *rivals}
    assert {len(taken) for taken in report["first_pushes_seconds"].values()} == {WARM_UP_ROUNDS}
    assert list(report["ways"]) == list(all_ways(tuple(rivals)))
    for way, row in report["ways"].items():
        assert len(row["seconds"]) == 1
        assert 0 < row["gib_per_s"]["min"] <= row["gib_per_s"]["median"] <= row["gib_per_s"]["max"]
        assert ("slowest_over_fastest" in row) == ("pull" in way)
        if "pull" in way:
            assert [len(each) for each in row["seconds_of_each_explorer"]] == [explorers]
            assert "explorer_extra" in row["peak_memory_mib"]
        if way in OURS:
            assert row["ratio_to"].keys() == set(rivals)
            assert row["peak_memory_mib"]["server"] > 10
            assert row["peak_memory_mib"]["stored"] >= 4  # two versions are kept
    assert report["ways"][SOCKET]["ratio_to_plain_socket"]["median"] == 1.0
    assert report["ways"][MEMCPY]["times_memcpy"]["median"] == 1.0
    assert report["machine"]["grpcio"][0].isdigit()
    assert report["server_anonymous_mib_peak"] > 10
    assert socket.gethostname() not in figures.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_small_run_from_end_to_end(tmp_path: Path) -> None:
    small_run(tmp_path, 2)


@pytest.mark.skipif("WEIGHTSYNC_RIVALS" not in os.environ, reason="takes half a minute")
def test_a_small_run_beside_the_rivals(tmp_path: Path) -> None:
    small_run(tmp_path, 2, list(PACKAGES))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "big"], "'big' is no size: use 64MiB"),
        (["--size", "0MiB"], "'0MiB' is no size"),
        (["--repeat", "0"], "'0' is too few: 1 or more"),
        (["--explorers", "-1"], "'-1' is too few: 1 or more"),
        (["--with", "flight,smoke"], "'smoke' is none of flight, ray"),
        (["--repaet", "3"], "unrecognized arguments"),
        (["--size", "64MiB", "--memory", "256MiB"], "about 0.4 GiB of memory, and --memory allows"),
        (["--size", "1GiB", "--explorers", "4000", "--memory", "9999GiB"], "the machine has avail"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    found = capsys.readouterr()
    assert said in found.err
    assert not found.out


def test_a_missing_package_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PACKAGES, "flight", "a-package-that-nobody-has")
    monkeypatch.setitem(PACKAGES, "ray", "pytest")
    assert missing(["flight", "ray"]) == (
        "--with needs what is not installed: pip install a-package-that-nobody-has"
    )
    assert missing(["ray"]) is None


def test_ratios_compare_samples_of_the_same_round() -> None:
    results = Results(1 << 30, blobs_on_tmpfs=True, fresh_processes=False, rivals=("ray",))
    for base, push in [(1.0, 2.0), (4.0, 8.0), (2.0, 5.0)]:
        found = {way: Sample(base, {"client": 1.0}) for way in all_ways(("ray",))}
        found["push http"] = Sample(push, {"client": 1.0, "server": 3.0}, (push,))
        found["push ray"] = Sample(10 * push, {"client": 1.0})
        found["pull ray"] = Sample(3 * base, {"client": 1.0})
        results.add(found, warm_up=False)
    assert results.ratios("push http") == [0.5, 0.5, 0.4]
    figures = summary(results)
    push_http = figures["push http"]
    assert push_http["ratio_to_plain_socket"] == {"median": 0.5, "min": 0.4, "max": 0.5}
    assert push_http["times_memcpy"] == {"median": 2.0, "min": 2.0, "max": 2.5}
    assert push_http["gib_per_s"]["median"] == 0.2
    assert push_http["cpu_seconds_per_gib"] == {"client": 1.0, "server": 3.0}
    assert push_http["ratio_to"]["ray"] == {"median": 10.0, "min": 10.0, "max": 10.0}
    assert figures[MAPPED]["ratio_to"]["ray"]["median"] == 3.0
    assert "ratio_to" not in figures["pull ray"]
    assert counterpart("push grpc", "flight") == "push flight"


def test_explorers_that_pull_at_once_are_counted_together_and_compared() -> None:
    results = Results(1 << 30, blobs_on_tmpfs=True, fresh_processes=False, explorers=2)
    memory = {"server": 3 * MIB, "stored": 0}
    for slow in (4.0, 5.0):
        found = {way: Sample(2.0, {"client": 1.0}) for way in all_ways()}
        peaks = memory | {"explorer_extra": int(slow) * MIB}
        found["pull http"] = Sample(slow, {"client": 6.0, "server": 1.0}, (2.0, slow), peaks)
        results.add(found, warm_up=False)
    row = summary(results)["pull http"]
    assert row["gib_per_s"] == {"median": 0.45, "min": 0.4, "max": 0.5}
    assert row["ratio_to_plain_socket"]["max"] == 1.0
    assert row["gib_per_s_of_each_explorer"] == {"median": 0.375, "min": 0.2, "max": 0.5}
    assert row["slowest_over_fastest"] == {"median": 2.25, "min": 2.0, "max": 2.5}
    assert row["cpu_seconds_per_gib"] == {"client": 3.0, "server": 0.5}
    assert row["peak_memory_mib"] == {"server": 3.0, "stored": 0.0, "explorer_extra": 5.0}
    assert results.server_anonymous_bytes() == 3 * MIB


def test_memory_is_that_of_the_block_and_of_the_round(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(MIB))
    me = os.getpid()
    service = Service("", (me,), lambda: directory_bytes(tmp_path))
    before_round = anonymous_bytes(me)
    kept = bytearray(b"x") * (32 * MIB)
    with Watch(service, "explorer", {me: before_round}) as watch:
        taken = bytearray(b"x") * (64 * MIB)
    assert len(kept) + len(taken) == 96 * MIB
    assert 60 * MIB < watch.peaks["explorer_extra"] < 92 * MIB
    assert watch.peaks["explorer_extra_of_round"] > 92 * MIB
    assert watch.peaks["server"] > 96 * MIB
    assert MIB <= watch.peaks["stored"] < 2 * MIB


def test_flight_moves_every_byte() -> None:
    pytest.importorskip("pyarrow")
    sent, got = model.make_state_dict(4 * MIB), model.make_state_dict(4 * MIB, seed=1)
    assert state_dict_digest(sent) != state_dict_digest(got)
    with flight.running(4 * MIB, 1) as service:
        trainer, explorer = flight.connect(service.address), flight.connect(service.address)
        trainer.push(sent)
        explorer.pull(got)
        assert state_dict_digest(sent) == state_dict_digest(got)
        with pytest.raises(RuntimeError, match="other tensors"):
            explorer.pull({"w": torch.zeros(3)})
        explorer.close()
        trainer.close()


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
