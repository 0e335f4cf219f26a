"""Converted networks in several threads and processes at once, on the same parameters."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator

import networks
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from torchbp import allocator

THREADS = 4


@pytest.fixture
def one_thread_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_threads(*works: Callable[[], None]) -> None:
    """Run all at once; raise what one of them raises."""
    errors: list[BaseException] = []
    together = threading.Barrier(len(works))

    def guarded(work: Callable[[], None]) -> None:
        try:
            together.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# Without dropout: all threads draw from one generator.
@pytest.mark.parametrize("name", ["convolutional", "transformer without dropout", "recurrent"])
def test_networks_side_by_side(name: str, one_thread_each: None) -> None:
    """Each thread trains its own; all get what one alone gets, bit by bit, while workspaces are released."""
    model = networks.pair(name)[0]
    batches = [networks.batch(name, seed, size=8, length=7) for seed in range(3)]

    def run(found: list[dict[str, Tensor]]) -> None:
        own = copy.deepcopy(model)
        optimizer = torch.optim.SGD(own.parameters(), 0.1)
        for inputs in batches:
            own.zero_grad()
            loss = own(*inputs)
            loss.backward()
            found.append({"loss": loss.detach(), **networks.state(own)})
            optimizer.step()

    wanted: list[dict[str, Tensor]] = []
    run(wanted)
    results: list[list[dict[str, Tensor]]] = [[] for _ in range(THREADS)]
    running = threading.Event()
    running.set()

    def release() -> None:
        while running.is_set():
            allocator.release_workspaces()

    releasing = threading.Thread(target=release)
    releasing.start()
    try:
        in_threads(*(lambda found=found: run(found) for found in results))
    finally:
        running.clear()
        releasing.join()
    for found in results:
        for step, expected in zip(found, wanted, strict=True):
            networks.assert_equal(step, expected, 0)


@pytest.mark.parametrize("name", ["small", "recurrent"])
def test_backward_from_several_threads(name: str, one_thread_each: None) -> None:
    """Gradients of all threads' losses add up in the shared parameters."""
    model = networks.pair(name)[0].eval()
    batches = [networks.batch(name, seed) for seed in range(THREADS)]
    losses = [model(*inputs) for inputs in batches]
    in_threads(*(loss.backward for loss in losses))
    found = networks.state(model)
    model.zero_grad()
    for inputs in batches:
        model(*inputs).backward()
    networks.assert_equal(found, networks.state(model))


def hogwild(model: nn.Module, name: str) -> None:
    """Train on shared parameters without a lock."""
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    inputs = networks.batch(name)
    for _ in range(30):
        optimizer.zero_grad()
        model(*inputs).backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_hogwild(kind: str, one_thread_each: None) -> None:
    """Whoever comes first writes; the parameters are the same memory everywhere, and the loss falls."""
    name = "small"
    model = networks.pair(name)[0].eval()
    before = model(*networks.batch(name)).item()
    if kind == "threads":
        # A gradient belongs to a thread: each has a network of its own around the same parameters.
        in_threads(*(lambda twin=twin: hogwild(twin, name) for twin in (sharing(model), sharing(model))))
    else:
        model.share_memory()
        assert all(p.is_shared() for p in model.parameters())
        mp.spawn(_process, (model, name), nprocs=2)
    after = model(*networks.batch(name)).item()
    assert after < 0.9 * before


def sharing(model: nn.Module) -> nn.Module:
    """Return a copy with gradients of its own and the model's parameters."""
    twin = copy.deepcopy(model)
    for own, shared in zip(twin.parameters(), model.parameters(), strict=True):
        own.data = shared.data
    return twin


def _process(rank: int, model: nn.Module, name: str) -> None:
    hogwild(model, name)
