"""One rank of a trainer: run as `rank.py RANK WORLD ADDRESS HASTY RUN DIRECTORY` by its test.

Prints one line of JSON after all pushes (case -> what came of it), reads a line, and after that
prints another for the last one. Rank 0 leaves the whole tensors of each case in DIRECTORY.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import _StridedShard

from sync_client import SyncClient, errors
from sync_client.authors import Author

Tensors = dict[str, torch.Tensor]
"""Values may be DTensors."""
Case = tuple[Tensors, Tensors]
"""What this rank has, and what all of them have together."""


class Model(nn.Module):
    """Sizes that four ranks can't share evenly; of `head` and `norm` some get nothing."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(7, 10)
        self.down = nn.Linear(10, 6)
        self.norm = nn.RMSNorm(6)
        self.head = nn.Linear(6, 1, bias=False, dtype=torch.bfloat16)
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.down(torch.relu(self.up(batch))))
        out: torch.Tensor = self.head(hidden.to(torch.bfloat16))
        return out


def model() -> Model:
    """The same on every rank, and every time."""
    torch.manual_seed(11)
    return Model()


def copy(module: nn.Module) -> Tensors:
    """What it holds now."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def fsdp() -> Case:
    """Cut along dimension 0 into four, and trained by one step with another batch a rank."""
    trained, mesh = model(), init_device_mesh("cpu", (4,))
    fully_shard(trained.head, mesh=mesh)  # of one group all have to have one dtype
    fully_shard(trained, mesh=mesh)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.5)
    torch.manual_seed(dist.get_rank())
    trained(torch.randn(5, 7)).float().sum().backward()
    optimizer.step()
    tensors = trained.state_dict()
    return tensors, {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in tensors.items()
    }


def fsdp_by_columns() -> Case:
    """Cut along dimension 1, as FSDP2 can be asked to."""
    torch.manual_seed(14)
    layer = nn.Linear(8, 3, bias=False)
    before = copy(layer)
    mesh = init_device_mesh("cpu", (4,))
    fully_shard(layer, mesh=mesh, shard_placement_fn=lambda _: Shard(1))
    return layer.state_dict(), before


def hybrid() -> Case:
    """Two replicas of two shards."""
    made = model()
    fully_shard(made, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "shard")))
    return made.state_dict(), copy(model())


def tensor_parallel() -> Case:
    """`up` cut along dimension 0 and `down` along dimension 1, the rest plain."""
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    made = parallelize_module(model(), init_device_mesh("cpu", (4,)), plan)
    return made.state_dict(), copy(model())


def replicated() -> Case:
    """All of it on every rank, as DTensors."""
    made = distribute_module(model(), init_device_mesh("cpu", (4,)))
    return made.state_dict(), copy(model())


def grid(plan: dict[str, Any]) -> Case:
    """Tensor parallelism, and FSDP2 over it."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(12)
    layers = nn.Sequential(nn.Linear(9, 5), nn.Linear(5, 3))
    before = copy(layers)
    parallelize_module(layers, mesh["tp"], plan)
    fully_shard(layers, mesh=mesh["dp"])
    return layers.state_dict(), before


def placements() -> Case:
    """What no module makes, but anybody may: several cuts of one dimension, a mesh of some ranks,
    tensors with no element or no dimension."""
    two = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    odd = DeviceMesh("cpu", torch.tensor([3, 1]))
    torch.manual_seed(13)
    cuts: dict[str, tuple[torch.Tensor, DeviceMesh, list[Placement]]] = {
        "twice": (torch.randn(10, 3), two, [Shard(0), Shard(0)]),
        "twice.small": (torch.arange(5), two, [Shard(0), Shard(0)]),
        "backwards": (torch.randn(3, 4, 5).to(torch.float16), two, [Shard(2), Shard(0)]),
        "last": (torch.randn(2, 7).to(torch.float8_e5m2), two, [Replicate(), Shard(-1)]),
        "first": (torch.randn(7, 2).to(torch.complex64), two, [Shard(0), Replicate()]),
        "bool": (torch.rand(3, 3) > 0.5, two, [Shard(1), Shard(0)]),
        "transposed": (torch.randn(6, 5).t(), two, [Shard(0), Shard(1)]),
        "scalar": (torch.tensor(2.5), two, [Replicate(), Replicate()]),
        "empty": (torch.empty(0, 4), two, [Shard(0), Replicate()]),
        "empty.inside": (torch.empty(4, 0), two, [Shard(0), Shard(0)]),
        "some.ranks": (torch.arange(12.0).reshape(4, 3), odd, [Shard(0)]),
    }
    # Without a source rank nothing is sent: gloo knows no float8, and every rank has it all.
    return (
        {
            name: distribute_tensor(tensor, mesh, how, src_data_rank=None)
            for name, (tensor, mesh, how) in cuts.items()
        },
        {name: tensor for name, (tensor, _, _) in cuts.items()},
    )


def by_rank() -> Case:
    """Plain tensors: each rank has its own, and all have one; one has nothing else."""
    owners = {"pipeline.0": 0, "pipeline.1": 1, "pipeline.2": 3, "expert.0": 0, "expert.7": 3}
    everything = {name: torch.full((3, rank + 1), float(rank)) for name, rank in owners.items()}
    shared = {"embedding": torch.arange(12.0)}
    mine = {name: everything[name] for name, rank in owners.items() if rank == dist.get_rank()}
    return {**mine, **shared}, {**everything, **shared}


def partial(*mesh_shape: int) -> Callable[[], Case]:
    """Sums that were not made yet: on the last mesh dimension, replicated on the others."""

    def make() -> Case:
        mesh = init_device_mesh("cpu", mesh_shape)
        how = [*[Replicate()] * (len(mesh_shape) - 1), Partial()]
        return {"fine": torch.ones(1), "unsummed": DTensor.from_local(torch.ones(2), mesh, how)}, {}

    return make


def strided() -> Case:
    """Every other row: no rank has a box of it."""
    mesh = init_device_mesh("cpu", (4,))
    how = [_StridedShard(0, split_factor=2)]
    return {"interleaved": DTensor.from_local(torch.ones(2, 3), mesh, how)}, {}


RIGHT: dict[str, Callable[[], Case]] = {
    "fsdp": fsdp,
    "fsdp by columns": fsdp_by_columns,
    "hybrid": hybrid,
    "tensor parallel": tensor_parallel,
    "fsdp over rows": lambda: grid({"0": RowwiseParallel(), "1": RowwiseParallel()}),
    "fsdp over columns": lambda: grid({"0": ColwiseParallel(), "1": RowwiseParallel()}),
    "replicated": replicated,
    "placements": placements,
    "by rank": by_rank,
}
WRONG: dict[str, Callable[[], Case]] = {
    "strided": strided,
    "partial": partial(4),
    "partial copies": partial(2, 2),
}


def push(client: SyncClient, tensors: Tensors, version: int, author: Author) -> dict[str, Any]:
    """What came of this rank's part, and how its tensors lay."""
    how = {
        name: [f"{placement}" for placement in tensor.placements]
        for name, tensor in tensors.items()
        if isinstance(tensor, DTensor)
    }
    empty = [n for n, t in tensors.items() if isinstance(t, DTensor) and not t.to_local().numel()]
    found: dict[str, Any] = {"placements": how, "empty": empty, "version": version}
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        info = client.push_shard(tensors, version, rank, world, author=author)
    except errors.SyncError as error:
        return {**found, "error": type(error).__name__, "text": str(error)}
    return {**found, "digest": info.digest, "revision": info.revision}


def main(address: str, hasty: str, run: str, directory: Path) -> None:
    """All cases, then the one in which a rank dies."""
    rank = dist.get_rank()
    with SyncClient(address, run) as client, SyncClient(hasty, run) as impatient:
        authors: list[Any] = [client.register("trainer").author if rank == 0 else None]
        dist.broadcast_object_list(authors)
        found = {}
        for version, (name, make) in enumerate([*RIGHT.items(), *WRONG.items()], start=1):
            tensors, whole = make()
            if rank == 0:
                flat = {key: tensor.contiguous() for key, tensor in whole.items()}
                save_file(flat, directory / f"{name}.safetensors")
            found[name] = push(client, tensors, version, Author(*authors[0]))
            dist.barrier()
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        sys.stdin.readline()
        last = push(impatient, {f"of.{rank}": torch.ones(2)}, 1, Author())
        sys.stdout.write(json.dumps(last) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    own_rank, world_size = map(int, sys.argv[1:3])
    place = Path(sys.argv[6])
    dist.init_process_group(
        "gloo", init_method=f"file://{place / 'store'}", rank=own_rank, world_size=world_size
    )
    main(sys.argv[3], sys.argv[4], sys.argv[5], place)
