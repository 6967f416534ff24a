"""The real grpcurl lists, describes and calls everything, and shows why a call was refused."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sync_client import SyncClient
from sync_client.tensors import StateDictSource
from tests.servers import running_server
from tests.services.grpcurl import (
    GRPCURL,
    SERVICES,
    UNARY,
    grpcurl,
    requests,
    upload_messages,
)
from tests.services.raw import open_channel
from weightsync.v1 import (
    progress_pb2,
    progress_pb2_grpc,
    rendezvous_pb2,
    rendezvous_pb2_grpc,
)

ROOT = Path(__file__).parents[2]
_WEIGHTS = "weightsync.v1.WeightService"

pytestmark = pytest.mark.skipif(not GRPCURL.exists(), reason="grpcurl is not installed here")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server of its own: the printed lines want the default run and its port in their place."""
    with running_server() as server:
        yield server.address


def test_it_lists_and_describes_everything(address: str) -> None:
    listed = grpcurl(address, "list").stdout.split()
    assert {service.full_name for service in SERVICES} | {"grpc.health.v1.Health"} <= set(listed)
    for service in SERVICES:
        methods = grpcurl(address, "list", service.full_name).stdout.split()
        assert methods == sorted(f"{service.full_name}.{m.name}" for m in service.methods)
        described = grpcurl(address, "describe", service.full_name).stdout
        for method in service.methods:
            assert f"rpc {method.name} (" in described
        message = service.methods[0].input_type
        described = grpcurl(address, "describe", f".{message.full_name}").stdout
        for field in message.fields:
            assert re.search(rf"\b{field.name} = {field.number}\b", described)


def test_it_calls_health(address: str) -> None:
    for name in ("", *(service.full_name for service in SERVICES)):
        request = json.dumps({"service": name})
        done = grpcurl("-d", request, address, "grpc.health.v1.Health/Check")
        assert json.loads(done.stdout) == {"status": "SERVING"}
    done = grpcurl("-d", '{"service":"no.such.Service"}', address, "grpc.health.v1.Health/Check")
    assert "Code: NotFound" in done.stderr


def assert_within(part: Any, whole: Any, where: str) -> None:
    """Every value of `part` is in `whole`; {} is within everything."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert_within(value, whole.get(key), f"{where}.{key}")
    elif isinstance(part, list):
        assert len(part) == len(whole), f"{where}: {whole}"
        for index, value in enumerate(part):
            assert_within(value, whole[index], f"{where}[{index}]")
    else:
        assert part == whole, where


def test_it_calls_every_unary_rpc(address: str) -> None:
    run = "runs/curl"
    lease = {"leaseDuration": "600s", "role": "WORKER_ROLE_TRAINER", "workerId": "trainer"}
    done = grpcurl(
        *("-d", json.dumps({"parent": run, **lease}), address),
        "weightsync.v1.WorkerService/RegisterWorker",
    )
    assert done.returncode == 0, done.stderr
    leased = {"worker": f"{run}/workers/trainer", "generation": "1"}
    digest = ""
    for number in (1, 2):
        messages = upload_messages(run, number, **leased)
        done = grpcurl("-d", messages, address, f"{_WEIGHTS}/UploadWeights")
        assert done.returncode == 0, done.stderr
        digest = _snake(json.loads(done.stdout))["weight_version"]["digest"]
    table = requests(run, digest)
    assert sorted(method for method, _, _ in table) == sorted(UNARY)
    for method, request, expected in table:
        done = grpcurl("-d", json.dumps(request), address, f"weightsync.v1.{method}")
        assert done.returncode == 0, f"{method}: {done.stderr}"
        answer = json.loads(done.stdout)
        assert_within(_snake(expected), _snake(answer), method)


def _snake(value: Any) -> Any:
    """grpcurl 1.8 prints names as in the .proto files, later ones as in JSON."""
    if isinstance(value, dict):
        return {re.sub(r"([A-Z])", r"_\1", k).lower(): _snake(v) for k, v in value.items()}
    return [_snake(item) for item in value] if isinstance(value, list) else value


def test_it_watches_and_downloads(address: str) -> None:
    done = grpcurl("-d", upload_messages("runs/bytes", 3), address, f"{_WEIGHTS}/UploadWeights")
    assert done.returncode == 0, done.stderr
    done = grpcurl(
        *("-d", '{"name":"runs/bytes/weightVersions/3"}', address, f"{_WEIGHTS}/DownloadWeights")
    )
    chunk = re.search(r'"chunk": "([^"]+)"', done.stdout)
    assert chunk is not None
    source = StateDictSource({"a": torch.full((8,), 3.0)})
    assert base64.b64decode(chunk[1]) == b"".join(source.chunks())
    watch = grpcurl(
        *("-max-time", "1", "-d", '{"name":"runs/bytes","after_revision":"0"}'),
        *(address, "weightsync.v1.RunService/WatchRun"),
    )
    assert '"weight_version"' in watch.stdout or '"weightVersion"' in watch.stdout


def test_it_shows_why_a_call_was_refused(address: str) -> None:
    done = grpcurl(
        *("-d", '{"name":"runs/default/weightVersions/404"}'),
        *(address, f"{_WEIGHTS}/GetWeightVersion"),
    )
    assert done.returncode != 0
    assert "Code: NotFound" in done.stderr
    assert '"reason":"VERSION_NOT_FOUND"' in done.stderr
    assert '"domain":"weightsync"' in done.stderr
    assert '"metadata":{"version":"404"}' in done.stderr


# --- the lines that are printed in the comments of the .proto files, and in the README


def printed_lines() -> list[str]:
    """Every grpcurl command line, with its continuation lines."""
    texts = [
        re.sub(r"^\s*// ?", "", path.read_text(), flags=re.MULTILINE)
        for path in sorted((ROOT / "proto" / "weightsync" / "v1").glob("*.proto"))
    ]
    readme = ROOT / "README.md"
    if readme.exists():
        texts.append(readme.read_text())
    joined = "\n".join(text.replace("\\\n", " ") for text in texts)
    return re.findall(r"^\s*(grpcurl -.*)$", joined, flags=re.MULTILINE)


def test_each_service_prints_a_line() -> None:
    lines = printed_lines()
    for service in SERVICES:
        assert any(f"{service.full_name}/" in line for line in lines), service.name


@pytest.fixture(scope="module")
def furnished(address: str) -> str:
    """The default run with what the printed lines ask for."""
    with SyncClient(address) as client, open_channel(address) as channel:
        client.push({"a": torch.ones(3)}, version=41)
        trainer = client.register("trainer")
        rendezvous_pb2_grpc.RendezvousServiceStub(channel).JoinRendezvous(
            rendezvous_pb2.JoinRendezvousRequest(
                name="runs/default/rendezvous/weights",
                worker="runs/default/workers/trainer",
                generation=trainer.generation,
                worker_count=1,
            )
        )
        record = progress_pb2.Progress(
            name="runs/default/progress/trainer",
            trainer=progress_pb2.TrainerProgress(current_step=41),
        )
        stub = progress_pb2_grpc.ProgressServiceStub(channel)
        stub.SaveProgress(progress_pb2.SaveProgressRequest(progress=record))
    return address


@pytest.mark.parametrize("line", printed_lines())
def test_a_printed_line_works_as_printed(line: str, furnished: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "grpcurl"
    assert "localhost:50051" in arguments
    done = subprocess.run(
        [GRPCURL, *(furnished if a == "localhost:50051" else a for a in arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
