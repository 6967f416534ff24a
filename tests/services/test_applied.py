"""What explorers have really loaded: faults that version numbers do not show are named."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from sync_client import SyncClient
from tests.servers import running_server

Tensors = dict[str, torch.Tensor]


def weights(number: int) -> Tensors:
    """A state dict of its own for each version."""
    generator = torch.Generator().manual_seed(number)
    return {
        "up": torch.randn(3, 5, generator=generator),
        "down": torch.randn(5, 3, generator=generator),
        "bias": torch.randn(5, generator=generator).to(torch.bfloat16),
    }


def skips_one(loaded: Tensors) -> Tensors:
    return {name: tensor for name, tensor in loaded.items() if name != "down"}


def transposes_one(loaded: Tensors) -> Tensors:
    return {**loaded, "up": loaded["up"].t().contiguous()}


def keeps_one_old(loaded: Tensors) -> Tensors:
    return {**loaded, "bias": weights(4)["bias"]}


def rounds_one(loaded: Tensors) -> Tensors:
    return {**loaded, "up": loaded["up"].to(torch.float16)}


def adds_one(loaded: Tensors) -> Tensors:
    return {**loaded, "lora.up": torch.ones(2)}


def loads_the_previous(loaded: Tensors) -> Tensors:
    return weights(4)


def loads_nothing(loaded: Tensors) -> Tensors:
    return {}


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (skips_one, "tensor 'down' is not loaded"),
        (transposes_one, "tensor 'up' has shape [5, 3], not [3, 5] (transposed?)"),
        (keeps_one_old, "tensor 'bias' has other bytes"),
        (rounds_one, "tensor 'up' is F16, not F32"),
        (adds_one, "tensor 'lora.up' is none of the version"),
        (loads_the_previous, "the bytes are those of version 4, not 5"),
        (loads_nothing, "no tensor is loaded"),
    ],
)
def test_a_fault_is_named_within_one_report(
    client: SyncClient,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[[Tensors], Tensors],
    problem: str,
) -> None:
    caplog.set_level(logging.WARNING, "weightsync")
    for number in (4, 5):
        client.push(weights(number), number)
    explorer = client.register("explorer", "e")
    assert explorer.report_applied(5, fault(weights(5))) is False
    (worker,) = client.status().workers
    assert (worker.version, worker.verified, worker.problem) == (5, False, problem)
    assert [record.getMessage() for record in caplog.records] == [
        f"e does not hold version 5: {problem}"
    ]
    # And it is over once the right bytes are there.
    assert explorer.report_applied(5, weights(5)) is True
    (worker,) = client.status().workers
    assert (worker.verified, worker.problem) == (True, "")


def test_many_differences_are_counted(client: SyncClient) -> None:
    client.push({f"layer.{i}": torch.full((2,), float(i)) for i in range(10)}, 1)
    explorer = client.register("explorer", "e")
    explorer.report_applied(1, {f"layer.{i}": torch.zeros(2) for i in range(10)})
    (worker,) = client.status().workers
    assert worker.problem == (
        "tensor 'layer.1' has other bytes; tensor 'layer.2' has other bytes; "
        "tensor 'layer.3' has other bytes; and 6 more"
    )


def test_a_version_that_nobody_knows(client: SyncClient) -> None:
    explorer = client.register("explorer", "e")
    assert explorer.report_applied(9, weights(9)) is False
    (worker,) = client.status().workers
    assert worker.problem == "there is no version 9 to compare with"


def test_a_retired_version_is_still_known_by_its_digest(client: SyncClient) -> None:
    for number in range(1, 5):
        client.push(weights(number), number)
    explorer = client.register("explorer", "e")
    assert explorer.report_applied(1, weights(1)) is True
    assert explorer.report_applied(4, weights(1)) is False
    (worker,) = client.status().workers
    assert worker.problem == "the bytes are those of version 1, not 4"


def test_a_digest_alone_says_less(client: SyncClient) -> None:
    client.push(weights(1), 1)
    explorer = client.register("explorer", "e")
    assert explorer.report_applied(1, "xxh3-128:" + "1" * 32) is False
    (worker,) = client.status().workers
    assert worker.problem == "the bytes are not those of version 1"


def test_it_survives_a_crash() -> None:
    with running_server() as server, SyncClient(server.address, retry_for=20) as client:
        client.push(weights(1), 1)
        client.register("explorer", "e").report_applied(1, {})
        server.restart()
        (worker,) = client.status().workers
        assert worker.problem == "no tensor is loaded"
