"""Converted networks in two processes, by DistributedDataParallel and FSDP2: as one process with all samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import torchbp

PROCESSES = 2
STEPS = 2
Results = dict[str, Tensor]


class Branches(nn.Module):
    """A network with a layer that a pass leaves out."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.unused = inner, nn.Linear(3, 3).double()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.inner(*inputs)


def model_of(name: str, synchronised: bool = False, explicit: bool = True) -> nn.Module:
    model: nn.Module = networks.network(name)
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if name == "transformer without dropout":
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = Branches(model)
    if explicit:
        torchbp.convert(model)
    return model


def part_of(name: str, seed: int, rank: int | None) -> tuple[Tensor, ...]:
    inputs = networks.batch(name, seed, size=4)
    return inputs if rank is None else tuple(t[2 * rank : 2 * rank + 2] for t in inputs)


def train(
    model: nn.Module,
    name: str,
    rank: int | None,
    call: Callable[..., Tensor] | None = None,
    whole: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Results:
    """Return the last step's gradients, and the parameters and buffers after it."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for seed in range(STEPS):
        optimizer.zero_grad()
        (model if call is None else call)(*part_of(name, seed, rank)).backward()
        found = {f"gradient of {k}": whole(p.grad) for k, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return {k: v.clone() for k, v in (found | {k: whole(v) for k, v in model.state_dict().items()}).items()}


# (DistributedDataParallel refuses SyncBatchNorm of any kind on the CPU: batch norm takes its running statistics.)
DATA_PARALLEL: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("recurrent", {}),
    "unused parameters": ("transformer without dropout", {"find_unused_parameters": True}),
    "static graph": ("transformer without dropout", {"static_graph": True}),
    "bucket views": ("convolutional", {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.001}),
}


def data_parallel(rank: int) -> dict[str, Results]:
    found = {}
    for check, (name, options) in DATA_PARALLEL.items():
        model = model_of(name)
        parallel = DistributedDataParallel(model, **options)
        set_mode(model, name)
        found[check] = train(model, name, rank, parallel)
    with pytest.raises(ValueError, match="SyncBatchNorm layers only work with GPU modules"):
        DistributedDataParallel(model_of("convolutional", synchronised=True))
    return found


def set_mode(model: nn.Module, name: str) -> nn.Module:
    return model.train(name != "convolutional")


def uneven(rank: int) -> Results:
    """One process has more batches than the other."""
    model = model_of("recurrent")
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with parallel.join():
        for seed in range(1 + rank):
            optimizer.zero_grad()
            parallel(*part_of("recurrent", seed, rank)).backward()
            optimizer.step()
    return dict(model.state_dict())


def sharded(name: str, rank: int) -> tuple[Results, Results]:
    """Return what FSDP2 gives, and a state that was gathered, loaded into another model, and gathered again."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))

    def shard() -> nn.Module:
        model = model_of(name, synchronised=True)
        body = model.inner.body if isinstance(model, Branches) else model.body
        for layer in body:
            if next(layer.parameters(), None) is not None:
                fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    model = shard()
    assert all(type(p).__name__ == "DTensor" for p in model.parameters())
    found = train(model, name, rank, whole=lambda t: t.full_tensor() if hasattr(t, "full_tensor") else t)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True)
    state = get_model_state_dict(model, options=options)
    other = shard()
    set_model_state_dict(other, copy.deepcopy(state) if rank == 0 else {}, options=options)
    return found, {"before": state, "after": get_model_state_dict(other, options=options)}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    try:
        found = {"data parallel": data_parallel(rank), "uneven": uneven(rank)}
        found["sharded"] = {name: sharded(name, rank) for name in ("convolutional", "transformer without dropout")}
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(process, (str(tmp_path),), nprocs=PROCESSES)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]

    def alone(name: str) -> nn.Module:
        return model_of(name, explicit=False)

    for found in results:
        for check, (name, _) in DATA_PARALLEL.items():
            networks.assert_equal(found["data parallel"][check], train(set_mode(alone(name), name), name, None))
        for name, (values, _) in found["sharded"].items():
            networks.assert_equal(values, train(alone(name), name, None))
    for values, states in results[0]["sharded"].values():  # the state is gathered in the first process
        networks.assert_equal(states["before"], states["after"], 0)
        networks.assert_equal(states["before"], {k: v for k, v in values.items() if not k.startswith("gradient")}, 0)
    networks.assert_equal(results[0]["uneven"], results[1]["uneven"], 0)
    first = alone("recurrent").state_dict()
    assert any(not torch.equal(value, first[key]) for key, value in results[0]["uneven"].items())
