"""Whatever is pushed comes back bit for bit, and whatever is sent is answered with a reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync_client import SyncClient
from sync_client.tensors import state_dict_digest
from tests.servers import ServerProcess, running_server
from tests.services.grpcurl import UNARY
from tests.services.raw import DOWNLOAD, UPLOAD, Refusal, open_channel, refusal, stream
from tests.services.sharing import ON
from tests.state_dicts import Recipe, assert_same, cook, cookbooks, names, recipes
from tests.until import until
from weightsync.digests import StreamDigester
from weightsync.frames import chunk_frame, upload_header_frame
from weightsync.layout import parse
from weightsync.v1 import weights_pb2

# The fixtures are shared on purpose: one server sees all that is drawn.
RELAXED = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WILD = settings(RELAXED, max_examples=300)
_versions = itertools.count(1)


@pytest.fixture(scope="module")
def pounded() -> Iterator[ServerProcess]:
    """A server of its own, which must still serve afterwards, without a fault in its log."""
    every_way = {**ON, "WEIGHTSYNC_HTTP_LISTEN": "127.0.0.1:0"}
    with running_server(environment=every_way) as server:
        yield server
        with SyncClient(server.address, run="afterwards") as client:
            client.push({"a": torch.ones(3)}, version=1)
            assert torch.equal(client.pull(1).state_dict["a"], torch.ones(3))
        until(lambda: not any(name.endswith(".partial") for name in server.blobs()))


@pytest.fixture(scope="module")
def trainer(pounded: ServerProcess) -> Iterator[SyncClient]:
    """A client that pushes."""
    with SyncClient(pounded.address, run="bits") as client:
        yield client


@pytest.fixture(scope="module")
def raw(pounded: ServerProcess) -> Iterator[grpc.Channel]:
    """Plain gRPC."""
    with open_channel(pounded.address) as made:
        yield made


@given(
    cookbook=cookbooks,
    tied=st.sets(names, max_size=2),
    recipe=recipes,
    transport=st.sampled_from(["grpc", "http", "shared-memory"]),
    data=st.data(),
)
@RELAXED
def test_what_is_pushed_comes_back_bit_for_bit(
    trainer: SyncClient,
    cookbook: dict[str, Recipe],
    tied: set[str],
    recipe: Recipe,
    transport: str,
    data: st.DataObject,
) -> None:
    state_dict = cook(cookbook | dict.fromkeys(tied, recipe))
    version = next(_versions)
    info = trainer.push(state_dict, version=version, transport=transport)
    digest = state_dict_digest(state_dict)
    assert info.digest == digest
    assert info.tensor_count == len(state_dict)

    pulled = trainer.pull(version, transport=transport)
    assert_same(pulled.state_dict, state_dict)
    wire_bytes = 0 if transport == "shared-memory" else info.size
    assert (pulled.transport, pulled.digest) == (transport, digest)
    assert pulled.wire_bytes == wire_bytes

    into = {name: torch.empty_like(tensor) for name, tensor in state_dict.items()}
    addresses = {name: tensor.data_ptr() for name, tensor in into.items()}
    assert trainer.pull(version, into=into, transport=transport).state_dict is into
    assert_same(into, state_dict)
    assert {name: tensor.data_ptr() for name, tensor in into.items()} == addresses

    assert_same(dict(trainer.iter_tensors(version)), state_dict)
    listed = {tensor.name: tensor for tensor in trainer.tensors(version)}
    assert listed.keys() == state_dict.keys()

    if state_dict:
        chosen = data.draw(st.lists(st.sampled_from(sorted(state_dict)), min_size=1, unique=True))
        part = {name: state_dict[name] for name in chosen}
        pulled = trainer.pull(version, names=chosen, transport=transport)
        assert_same(pulled.state_dict, part)
        assert pulled.digest == state_dict_digest(part)
        assert_same(dict(trainer.iter_tensors(version, names=chosen)), part)


# --- what strangers send


SMALL = stream({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, b"1234")


def digest_of(data: bytes) -> str:
    """The version digest of a whole stream."""
    layout = parse(data, len(data))
    digester = StreamDigester(layout)
    digester.update(data[layout.data_offset :])
    return digester.version_digest()


def cut_or_changed(data: bytes) -> st.SearchStrategy[bytes]:
    """`data` with a byte changed, or cut off."""
    places = st.integers(0, len(data) - 1)
    changed = st.tuples(places, st.integers(0, 255)).map(
        lambda at: data[: at[0]] + bytes([at[1]]) + data[at[0] + 1 :]
    )
    return st.one_of(st.just(data), changed, places.map(lambda at: data[:at]))


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__"]), st.text()
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)
bodies = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=100).map(stream),
    json_like.map(stream),
    cut_or_changed(SMALL),
)
resources = st.sampled_from(
    ["runs/wild/weightVersions/1", "runs/wild/weightVersions/2", "runs/wild", "", "runs/é", "\x00"]
)
digests = st.sampled_from([digest_of(SMALL), "xxh3-128:" + "0" * 32, "", "x"])


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """The first frame of an upload, often nearly right."""
    header = weights_pb2.UploadWeightsHeader(
        name=draw(resources),
        size_bytes=draw(st.one_of(st.just(len(SMALL)), st.integers(-(2**63), 2**63 - 1))),
        digest=draw(digests),
        shard_count=draw(st.sampled_from([0, 0, 0, 1, -1, 2**31 - 1])),
        shard_index=draw(st.sampled_from([0, 0, 0, 1, -(2**31)])),
        worker=draw(st.sampled_from(["", "", "runs/wild/workers/w", "runs/other/workers/w"])),
        generation=draw(st.sampled_from([0, 1, -1, 2**63 - 1])),
    )
    return draw(cut_or_changed(upload_header_frame(header)))


frames = st.lists(st.one_of(st.binary(max_size=50), headers(), bodies.map(chunk_frame)), max_size=5)


def outcome(call: Any, *arguments: Any) -> Refusal | None:
    """None for an answer; else the refusal, which must have a reason of ours."""
    try:
        answer = call(*arguments, timeout=30)
        if not isinstance(answer, bytes):  # a stream
            for _ in answer:
                pass
    except grpc.RpcError as error:
        found = refusal(error)
        assert found.reason, found
        assert found.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), found
        return found
    return None


@given(body=bodies, digest=digests)
@WILD
def test_any_bytes_as_a_safetensors_stream(raw: grpc.Channel, body: bytes, digest: str) -> None:
    header = weights_pb2.UploadWeightsHeader(
        name=f"runs/headers-{next(_versions)}/weightVersions/1", size_bytes=len(body), digest=digest
    )
    upload: Any = raw.stream_unary(UPLOAD)
    found = outcome(upload, iter([upload_header_frame(header), chunk_frame(body)]))
    if found is None:
        assert digest == digest_of(body)
    else:
        reasons = {"INVALID_HEADER", "INVALID_ARGUMENT", "SIZE_MISMATCH", "DIGEST_MISMATCH"}
        assert found.reason in reasons


@given(sent=frames)
@WILD
def test_any_frames_as_an_upload(raw: grpc.Channel, sent: list[bytes]) -> None:
    upload: Any = raw.stream_unary(UPLOAD)
    outcome(upload, iter(sent))


@given(method=st.sampled_from([*UNARY, "WeightService/DownloadWeights"]), request=st.binary())
@WILD
def test_any_bytes_as_a_request(raw: grpc.Channel, method: str, request: bytes) -> None:
    path = f"/weightsync.v1.{method}"
    call: Any = raw.unary_stream(path) if path == DOWNLOAD else raw.unary_unary(path)
    outcome(call, request)
