"""Batch normalisation over processes equals that of one process with all their batches, in every derivative."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from torchbp import nn
from torchbp.autograd.normalization import sync_batch_norm

# How the batch is divided: evenly, unevenly, and with a process that has nothing.
DIVISIONS = {"even": (3, 3), "uneven": (1, 4), "nothing": (5, 0)}
CHANNELS = 3


def layer(kind: str, **options: Any) -> torch.nn.Module:
    module = getattr(nn, kind)(CHANNELS, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.linspace(0.5, 1.5, CHANNELS) * (i + 1))
    return module


def batch(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, CHANNELS, 2, 3, generator=generator, dtype=torch.float64) * 2 + 1


def derivatives(module: torch.nn.Module, x: Tensor, g: Tensor, v: Tensor) -> dict[str, Tensor]:
    """Return the output, all first derivatives, those of their sum of products with v, and the state left behind."""
    x, g = x.clone().requires_grad_(), g.clone().requires_grad_()
    parameters = list(module.parameters())
    y = module(x)
    first = torch.autograd.grad(y, [x, *parameters], g, create_graph=True)
    weights = [v, *(torch.full_like(p, 0.3) for p in parameters)]
    second = torch.autograd.grad(first, [x, *parameters, g], weights, allow_unused=True, materialize_grads=True)
    found = {"y": y, "gx": first[0], "ggx": second[0], "ggg": second[-1], **dict(module.named_buffers())}
    found |= {f"sum of gradients {i}": t for i, t in enumerate((*first[1:], *second[1:-1]))}
    return {name: t.detach() for name, t in found.items()}


def process(rank: int, division: tuple[int, ...], port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=len(division))
    try:
        start = sum(division[:rank])
        parts = [batch(sum(division), seed)[start : start + division[rank]] for seed in (1, 2, 3)]
        found = [derivatives(layer("SyncBatchNorm", momentum=momentum), *parts) for momentum in (0.1, None)]
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", DIVISIONS)
def test_two_processes_equal_one(name: str, tmp_path: Path) -> None:
    division = DIVISIONS[name]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(process, (division, port, str(tmp_path)), nprocs=len(division))
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(division))]
    for i, momentum in enumerate((0.1, None)):
        whole = derivatives(
            layer("BatchNorm2d", momentum=momentum), *(batch(sum(division), seed) for seed in (1, 2, 3))
        )
        for key, wanted in whole.items():
            each = [part[i][key] for part in parts]
            if key.startswith("sum"):  # of the processes' gradients of a parameter
                torch.testing.assert_close(sum(each), wanted, rtol=1e-10, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")
            elif wanted.dim() > 1:
                torch.testing.assert_close(torch.cat(each), wanted, rtol=1e-10, atol=1e-10)
            else:
                for one in each:
                    torch.testing.assert_close(one, wanted, rtol=1e-10, atol=1e-10)


def test_a_group_of_one(tmp_path: Path) -> None:
    parts = [batch(4, seed) for seed in (1, 2, 3)]
    wanted = derivatives(layer("BatchNorm2d"), *parts)
    alone = derivatives(layer("SyncBatchNorm"), *parts)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        found = derivatives(layer("SyncBatchNorm"), *parts)
        y = sync_batch_norm(parts[0], None, None, 1e-5, None)[0]
        torch.testing.assert_close(y, nn.functional.batch_norm(parts[0], None, None, training=True))
        with pytest.raises(ValueError, match="GPU"):
            torch.nn.SyncBatchNorm(CHANNELS).double()(parts[0])
    finally:
        dist.destroy_process_group()
    for key, value in wanted.items():
        assert torch.equal(found[key], value) and torch.equal(alone[key], value), key


def test_conversion_of_a_model() -> None:
    model = nn.Sequential(nn.Conv2d(1, CHANNELS, 3), nn.BatchNorm2d(CHANNELS), nn.Sequential(torch.nn.BatchNorm1d(2)))
    weight = model[1].weight
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(converted[1]) is nn.SyncBatchNorm and type(converted[2][0]) is nn.SyncBatchNorm
    assert converted[1].weight is weight
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2))) is nn.SyncBatchNorm


def test_refusals() -> None:
    module = layer("SyncBatchNorm")
    with pytest.raises(ValueError, match="2D"):
        module(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="channels"):
        module(torch.zeros(3, 0, dtype=torch.float64))
    with pytest.raises(ValueError, match="more than 1 value"):
        module(torch.zeros(1, CHANNELS, dtype=torch.float64))
