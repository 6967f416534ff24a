"""Versions that arrive in shards: whole tensors, slices, retries, and ranks that never come."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sync_client import SyncClient, errors
from sync_client.tensors import state_dict_digest
from tests.servers import ServerProcess, running_server
from tests.services.raw import open_channel, refused
from tests.until import until
from weightsync.digests import StreamDigester
from weightsync.frames import chunk_frame, upload_header_frame
from weightsync.layout import build
from weightsync.slices import Placement, encode
from weightsync.v1 import weights_pb2

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def hasty() -> Iterator[ServerProcess]:
    """A server that does not wait long for shards."""
    with running_server(options=["--shard-wait-seconds", "1"]) as server:
        yield server


def together(client: SyncClient, shards: list[Tensors], version: int, **options: Any) -> list[Any]:
    """All ranks push at once; what each got, an error included."""

    def push(index: int) -> Any:
        try:
            return client.push_shard(shards[index], version, index, len(shards), **options)
        except errors.SyncError as error:
            return error

    with ThreadPoolExecutor(len(shards)) as threads:
        return list(threads.map(push, range(len(shards))))


def weights(seed: int = 0) -> Tensors:
    """Tensors of several kinds."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(64, 33, generator=generator).to(torch.bfloat16),
        "b": torch.arange(7, dtype=torch.int64),
        "c": torch.randn(3, 5, 7, generator=generator),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
    }


class Stream:
    """A shard's stream made by hand: (metadata of slices, tensors)."""

    def __init__(self, tensors: Tensors, slices: dict[str, Placement]) -> None:
        specs = [(n, "F32", tuple(t.shape)) for n, t in tensors.items()]
        layout = build(specs, encode(slices))
        data = b"".join(
            tensors[entry.name].contiguous().numpy().tobytes() for entry in layout.tensors
        )
        digester = StreamDigester(layout)
        digester.update(data)
        self.digest = digester.version_digest()
        self.data = layout.header + data

    def frames(self, run: str, version: int, index: int, count: int) -> list[bytes]:
        """Its messages, in chunks that end anywhere."""
        header = weights_pb2.UploadWeightsHeader(
            name=f"runs/{run}/weightVersions/{version}",
            size_bytes=len(self.data),
            digest=self.digest,
            shard_index=index,
            shard_count=count,
        )
        step = 101
        chunks = [self.data[i : i + step] for i in range(0, len(self.data), step)]
        return [upload_header_frame(header), *map(chunk_frame, chunks)]


def send(server: ServerProcess, run: str, streams: list[Stream], version: int = 1) -> list[Any]:
    """All streams at once; each one's answer or refusal."""

    def one(index: int) -> Any:
        with open_channel(server.address) as channel:
            call: Any = channel.stream_unary(
                "/weightsync.v1.WeightService/UploadWeights",
                request_serializer=None,
                response_deserializer=weights_pb2.UploadWeightsResponse.FromString,
            )
            frames = streams[index].frames(run, version, index, len(streams))
            try:
                return call(iter(frames), timeout=30)
            except Exception:  # noqa: BLE001 - asked again, for its reason
                return refused(call, iter(frames))

    with ThreadPoolExecutor(len(streams)) as threads:
        return list(threads.map(one, range(len(streams))))


def test_whole_tensors_by_rank(client: SyncClient) -> None:
    sent = weights()
    names = list(sent)
    shards = [{name: sent[name] for name in names[rank::3]} for rank in range(3)]
    found = together(client, shards, 1)
    digest = state_dict_digest(sent)
    assert [info.digest for info in found] == [digest] * 3
    assert len({info.revision for info in found}) == 1
    pulled = client.pull(1)
    assert pulled.digest == digest
    assert pulled.state_dict.keys() == sent.keys()


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_slices_on_any_dimension(server: ServerProcess, client: SyncClient, dim: int) -> None:
    whole = torch.arange(5 * 7 * 11, dtype=torch.float32).reshape(5, 7, 11)
    bounds = [0, 1, 4, whole.shape[dim]]  # uneven
    streams = []
    for begin, end in itertools.pairwise(bounds):
        start = [0, 0, 0]
        start[dim] = begin
        part = whole.narrow(dim, begin, end - begin)
        streams.append(Stream({"w": part}, {"w": ((5, 7, 11), tuple(start))}))
    answers = send(server, client.run, streams)
    assert all(answer.weight_version.version == 1 for answer in answers), answers
    pulled = client.pull(1)
    assert torch.equal(pulled.state_dict["w"], whole)
    assert pulled.digest == state_dict_digest({"w": whole})


def test_a_grid_of_slices(server: ServerProcess, client: SyncClient) -> None:
    whole = torch.randn(9, 10)
    streams = []
    for top, bottom in ((0, 5), (5, 9)):
        for left, right in ((0, 3), (3, 10)):
            part = whole[top:bottom, left:right]
            streams.append(Stream({"w": part}, {"w": ((9, 10), (top, left))}))
    answers = send(server, client.run, streams)
    assert all(answer.weight_version.version == 1 for answer in answers), answers
    assert torch.equal(client.pull(1).state_dict["w"], whole)


def test_what_several_ranks_hold_has_to_be_the_same(client: SyncClient) -> None:
    shared = torch.ones(4)
    found = together(client, [{"n": shared, "a": shared}, {"n": shared, "b": shared}], 1)
    assert [info.version for info in found] == [1, 1]
    assert set(client.pull(1).state_dict) == {"n", "a", "b"}
    found = together(client, [{"n": shared}, {"n": shared + 1}], 2)
    assert all(isinstance(error, errors.DigestMismatch) for error in found), found
    assert client.status().latest_version == 1


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ([((8,), (0,)), ((8,), (3,))], "overlap"),
        ([((9,), (0,)), ((9,), (5,))], "bring 8 of its 9"),
        ([((8,), (0,)), ((9,), (4,))], "in one shard"),
        ([((8,), (0,)), ((8,), (5,))], "do not lie in"),
    ],
    ids=["overlap", "gap", "another shape", "outside"],
)
def test_slices_that_make_no_tensor(
    hasty: ServerProcess, run_id: str, slices: list[Placement], said: str
) -> None:
    streams = [Stream({"w": torch.ones(4)}, {"w": placement}) for placement in slices]
    bad = send(hasty, run_id, streams)
    texts = [answer.text for answer in bad if hasattr(answer, "reason")]
    assert texts, bad
    assert any(said in text for text in texts), texts
    assert {answer.reason for answer in bad if hasattr(answer, "reason")} <= {
        "INVALID_HEADER",
        "SHARD_MISSING",
    }


@pytest.mark.parametrize("count", [0, 1])
def test_a_slice_is_no_version(server: ServerProcess, run_id: str, count: int) -> None:
    stream = Stream({"w": torch.ones(4)}, {"w": ((8,), (0,))})
    with open_channel(server.address) as channel:
        call: Any = channel.stream_unary(
            "/weightsync.v1.WeightService/UploadWeights",
            request_serializer=None,
            response_deserializer=weights_pb2.UploadWeightsResponse.FromString,
        )
        found = refused(call, iter(stream.frames(run_id, 1, 0, count)))
    assert (found.reason, "no shard" in found.text) == ("INVALID_HEADER", True)


def test_who_is_missing_is_said(hasty: ServerProcess, run_id: str) -> None:
    with SyncClient(hasty.address, run=run_id) as client:
        with ThreadPoolExecutor(2) as threads:
            there = [
                threads.submit(client.push_shard, {f"t{rank}": torch.ones(3)}, 7, rank, 4)
                for rank in (0, 2)
            ]
            for future in there:
                error = future.exception(timeout=20)
                assert isinstance(error, errors.ShardMissing)
                assert "shards 1, 3 of 4 did not come within 1 s" in str(error)
        # All of them try again, and this time everybody comes.
        shards = [{f"t{rank}": torch.ones(3)} for rank in range(4)]
        assert [info.version for info in together(client, shards, 7)] == [7] * 4
    hasty.assert_no_faults()


def test_a_shard_is_sent_again_and_counts_once(client: SyncClient) -> None:
    shards = [{"a": torch.ones(3)}, {"b": torch.ones(3)}]
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(client.push_shard, shards[0], 1, 0, 2)
        again = threads.submit(client.push_shard, shards[0], 1, 0, 2)
        both = [first, again]
        until(lambda: not any(future.done() and not future.exception() for future in both))
        assert client.push_shard(shards[1], 1, 1, 2).version == 1
        results = [future.exception(timeout=20) or future.result() for future in both]
    # The later stream took the earlier one's place; whoever was heard got the version.
    assert any(getattr(result, "version", None) == 1 for result in results), results
    # A rank whose answer was lost asks again, when all is over.
    late = client.push_shard(shards[0], 1, 0, 2)
    assert late.version == 1
    with pytest.raises(errors.VersionExists):
        client.push_shard({"a": torch.zeros(3)}, 1, 0, 2)
    assert client.status().revision == late.revision


def test_ranks_that_disagree_about_their_number(hasty: ServerProcess, run_id: str) -> None:
    with SyncClient(hasty.address, run=run_id) as client, ThreadPoolExecutor(2) as threads:
        one = threads.submit(client.push_shard, {"a": torch.ones(1)}, 1, 0, 2)
        other = threads.submit(client.push_shard, {"b": torch.ones(1)}, 1, 1, 3)
        found = [one.exception(timeout=20), other.exception(timeout=20)]
    # Whoever came second is told; the first one waits for nobody.
    assert {type(error) for error in found} == {errors.InvalidArgument, errors.ShardMissing}
    assert any("other ranks say" in str(error) for error in found)


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 5000)])
def test_numbers_that_no_rank_has(client: SyncClient, index: int, count: int) -> None:
    with pytest.raises(errors.InvalidArgument):
        client.push_shard({"a": torch.ones(1)}, 1, index, count)


def test_in_the_trainers_name(client: SyncClient, server: ServerProcess) -> None:
    trainer = client.register("trainer")
    with SyncClient(server.address, run=client.run) as other:
        with pytest.raises(errors.TrainerActive):
            other.push_shard({"b": torch.ones(1)}, 1, 1, 2)
        with ThreadPoolExecutor(1) as threads:
            mine = threads.submit(trainer.push_shard, {"a": torch.ones(1)}, 1, 0, 2)
            theirs = other.push_shard({"b": torch.ones(1)}, 1, 1, 2, author=trainer.author)
            assert mine.result(timeout=20).digest == theirs.digest
        successor = other.register("trainer")
        with pytest.raises(errors.StaleGeneration):
            other.push_shard({"b": torch.ones(1)}, 2, 1, 2, author=trainer.author)
        assert successor.generation > trainer.author.generation


_RANK = """
import sys, torch
from sync_client import SyncClient
address, run = sys.argv[1:]
print("here", flush=True)
SyncClient(address, run).push_shard({"a": torch.ones(1 << 20)}, 1, 0, 2)
"""


def test_a_rank_that_dies_and_comes_again() -> None:
    with running_server() as server, SyncClient(server.address, "ranks") as client:
        command = [sys.executable, "-c", _RANK, server.address, "ranks"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dying:
            assert dying.stdout is not None
            assert dying.stdout.readline() == "here\n"
            dying.send_signal(signal.SIGKILL)
        found = together(client, [{"a": torch.ones(1 << 20)}, {"b": torch.ones(5)}], 1)
        assert [info.version for info in found] == [1, 1]
        assert float(client.pull(1).state_dict["a"].sum()) == 1 << 20
        assert not [name for name in server.blobs() if name.endswith(".partial")]
        server.assert_no_faults()
