"""torchbp.convert and torchbp.revert: the same objects, the same numbers, and back to exactly what was."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conformance import MODULES, Case, derivatives, equal, functional, tolerance_of
from test_modules import NAMES
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, rnn, spectral_norm, weight_norm

import torchbp
from torchbp import conversion
from torchbp.costs.graph import nodes_of

Taken = Callable[[nn.Module], Any]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    ).double()


def image() -> Tensor:
    return torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def results(module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """Return the output and the gradients of parameters and inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    torch.manual_seed(3)
    output = module(*leaves)
    output = output[0] if isinstance(output, tuple) else output
    wanted = [*leaves, *(p for p in module.parameters() if p.requires_grad)]
    return [output.detach(), *torch.autograd.grad(output.square().sum(), wanted, allow_unused=True)]


def alike(mine: nn.Module, theirs: nn.Module, *inputs: Tensor) -> None:
    torch.testing.assert_close(results(mine, *inputs), results(theirs, *inputs), rtol=1e-11, atol=1e-11)


def snapshot(model: nn.Module) -> dict[str, tuple[type, dict[str, Any]]]:
    """Return the class of every module and its attributes, containers copied, what they hold not."""
    return {
        name: (type(m), {k: copy.copy(v) if isinstance(v, dict) else v for k, v in vars(m).items()})
        for name, m in model.named_modules()
    }


def assert_is_as_before(model: nn.Module, before: dict[str, tuple[type, dict[str, Any]]]) -> None:
    now = snapshot(model)
    assert now.keys() == before.keys()
    for name, (cls, attributes) in before.items():
        assert now[name][0] is cls, name
        assert now[name][1].keys() == attributes.keys(), name
        for key, value in attributes.items():
            found = now[name][1][key]
            if isinstance(value, dict):
                assert found.keys() == value.keys() and all(found[k] is value[k] for k in value), (name, key)
            else:
                assert found is value, (name, key)


# --------------------------------------------------------------------------------------------------
# Every layer


def fresh(place: object, name: str) -> nn.Module:
    """Return a module as its constructor makes it; a lazy one without parameters."""
    from test_modules import arguments

    torch.manual_seed(0)
    return getattr(place, name)(*arguments(place, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_layer_is_what_torchbps_constructor_makes(name: str) -> None:
    """So whatever is tested of torchbp's layers holds of it; and it is still the same object."""
    layer, built = fresh(nn, name), fresh(torchbp.nn, name)
    before, text, tensors = snapshot(layer), repr(layer), [*layer.parameters(), *layer.buffers()]
    hooks = layer.register_forward_hook(lambda *_: None), layer.register_state_dict_post_hook(lambda *_: None)
    report = torchbp.convert(layer)
    assert len(report) == report.total >= 1 and not report.left and not report.already
    for (path, mine), (other, theirs) in zip(layer.named_modules(), built.named_modules(), strict=True):
        assert path == other and vars(mine).keys() - {"_torchbp_replaced"} == vars(theirs).keys()
        assert ("_torchbp_replaced" in vars(mine)) is (path in report.converted)
        # Of parts that are not called but read, the constructor makes torch.nn's.
        assert type(mine) is type(theirs) or type(mine) is conversion._explicit(type(theirs)), path
        for key in ("activation", "distance_function", "training"):
            assert isinstance(vars(mine).get(key), nn.Module) or vars(mine).get(key) is vars(theirs).get(key)
    assert repr(layer) == text and isinstance(layer, getattr(nn, name))
    assert all(a is b for a, b in zip([*layer.parameters(), *layer.buffers()], tensors, strict=True))
    assert len(layer._forward_hooks) == 1 + len(before[""][1]["_forward_hooks"])
    again = torchbp.convert(layer)
    assert not len(again) and len(again.already) == again.explicit == report.total
    for hook in hooks:
        hook.remove()
    assert torchbp.revert(layer).keys() == report.converted.keys()
    assert_is_as_before(layer, before)
    assert not torchbp.revert(layer)


@pytest.mark.filterwarnings("ignore:kl_div")
@pytest.mark.parametrize("count", [pytest.param(1, id="quick"), pytest.param(12, marks=pytest.mark.slow, id="more")])
@pytest.mark.parametrize(
    ("name", "info"), [pytest.param(n, m, id=n) for n, m in MODULES if not n.startswith("Transformer")]
)
def test_values_and_gradients_of_every_layer(name: str, info: Any, count: int) -> None:
    """PyTorch's own inputs of its modules."""
    found = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    for sample in [sample for sample in found if sample.forward_input is not None][:count]:
        torch.manual_seed(5)
        layer = getattr(nn, name)(*sample.constructor_input.args, **sample.constructor_input.kwargs).double()
        args, kwargs = sample.forward_input.args, sample.forward_input.kwargs
        if name.startswith("Lazy"):
            layer(*args, **kwargs)
        parameters = dict(layer.named_parameters())
        state = {k: v.detach().requires_grad_(k in parameters) for k, v in layer.state_dict().items()}
        order = 0 if name == "CTCLoss" else 1  # test_ctc_loss.py: whose gradient is right
        case = Case(functional(layer), ((state, *args), kwargs))
        expected = derivatives(case, order)
        torchbp.convert(layer)
        equal(derivatives(case, order), expected, sample.desc, tolerance_of(name))
        torchbp.revert(layer)
        equal(derivatives(case, order), expected, sample.desc, 0)


def test_what_torchbps_layers_do_not_call_is_known() -> None:
    """A subclass that overrides a method which torch.nn's forward calls, and torchbp's does not, must be left."""

    def methods(cls: type, base: type) -> Iterator[str]:
        """Yield the names of the methods of a layer that its forward reaches."""
        waiting, seen = ["forward"], set()
        while waiting:
            name = waiting.pop()
            function = inspect.unwrap(getattr(cls, name))
            if name in seen or not inspect.isfunction(function):
                continue
            seen.add(name)
            yield name
            names, told = [*function.__code__.co_names], {function}
            while names:  # the functions of the same file that it calls
                word = names.pop()
                other = function.__globals__.get(word)
                if inspect.isfunction(other) and other.__module__ == function.__module__ and other not in told:
                    told.add(other)
                    names += other.__code__.co_names
                if hasattr(base, word) and not hasattr(nn.Module, word):
                    waiting.append(word)

    found = set()
    for theirs, ours in conversion._EXPLICIT.items():
        own = {name for c in ours.__mro__ if c not in theirs.__mro__ for name in vars(c)}
        found |= set(methods(theirs, theirs)) - set(methods(ours, theirs)) - own
    assert found == conversion._NOT_CALLED


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", [torch.nn.functional.relu, "gelu", torch.tanh, nn.SiLU()])
def test_transformers_with_their_activations(activation: Any, norm_first: bool) -> None:
    torch.manual_seed(0)
    model = nn.Transformer(4, 2, 1, 1, 6, 0.1, activation, norm_first=norm_first, batch_first=True).double()
    twin, before = copy.deepcopy(model), snapshot(model)
    torchbp.convert(model)
    x, y = (torch.randn(2, n, 4, dtype=torch.float64) for n in (3, 5))
    alike(model, twin, x, y)
    copied = copy.deepcopy(model)
    torchbp.revert(model)
    assert_is_as_before(model, before)
    torchbp.revert(copied)
    assert {name: type(m) for name, m in copied.named_modules()} == {n: cls for n, (cls, _) in before.items()}
    assert copied.encoder.layers[0].activation is twin.encoder.layers[0].activation or isinstance(activation, nn.Module)


def test_an_activation_that_was_changed_since_stays() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 5)
    torchbp.convert(layer)
    assert layer.activation is torchbp.nn.functional.relu
    layer.activation = torch.tanh
    torchbp.revert(layer)
    assert layer.activation is torch.tanh


# --------------------------------------------------------------------------------------------------
# Whole models


class Branch(nn.Module):
    """A container of one's own, with a layer under two names."""

    def __init__(self, *children: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({f"part {i}": child for i, child in enumerate(children)})
        self.first, self.nothing = children[0], None

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = x + part(x)
        return self.first(x)


class Named(nn.Linear):
    """A subclass that overrides nothing that computes."""

    def extra_repr(self) -> str:
        return "named, " + super().extra_repr()


class Functional(nn.Linear):
    """A subclass that computes by itself."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * 2, self.bias)


class Scaled(nn.Linear):
    """A subclass that adds to what torch.nn computes."""

    scale: float = 3.0

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


LEAVES = [
    *((lambda cls=cls: cls(4, 4)) for cls in (nn.Linear, Named, Functional, Scaled)),
    *((lambda cls=cls: cls()) for cls in (nn.ReLU, nn.Tanh, nn.Identity, Custom)),
    lambda: nn.Softmax(-1),
    lambda: nn.LayerNorm(4),
    lambda: nn.Dropout(0.3),
    lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    lambda: torchbp.nn.Linear(4, 4),
]
models = st.recursive(
    st.sampled_from(LEAVES).map(lambda build: build()),
    lambda parts: st.tuples(st.sampled_from([nn.Sequential, Branch]), st.lists(parts, min_size=1, max_size=3)).map(
        lambda made: made[0](*made[1])
    ),
    max_leaves=8,
)


@settings(max_examples=20)
@given(models)
def test_any_model_computes_the_same_and_comes_back(model: nn.Module) -> None:
    model.double()
    twin, before, text = copy.deepcopy(model), snapshot(model), repr(model)
    keys = model.state_dict().keys()
    report = torchbp.convert(model)
    assert repr(model) == text and model.state_dict().keys() == keys
    assert report.total == len(report.converted) + len(report.already) + len(report.left)
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    alike(model, twin, x)
    twin.load_state_dict(model.state_dict())
    again = torchbp.convert(model)
    assert not len(again) and again.left == report.left and again.explicit == report.explicit
    torchbp.revert(model)
    assert_is_as_before(model, before)


def test_one_object_under_many_names_and_references_elsewhere() -> None:
    layer = nn.Linear(4, 4)
    model = Branch(layer, nn.Sequential(layer, nn.ReLU()))
    references, optimizer = [layer], torch.optim.SGD(model.parameters(), 0.1)
    report = torchbp.convert(model)
    assert list(report.converted) == ["parts.part 0", "parts.part 1.1"]
    assert type(references[0]) is torchbp.nn.Linear and model.first is layer
    assert optimizer.param_groups[0]["params"][0] is layer.weight


def test_a_model_that_contains_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].owner = model
    assert list(torchbp.convert(model).converted) == ["0"]
    assert list(torchbp.revert(model)) == ["0"]


def test_hooks_mode_and_frozen_parameters_stay() -> None:
    model, seen = network().eval(), []
    model[0].register_forward_pre_hook(lambda m, x: seen.append("before") or (x[0] * 2,))
    model[0].register_full_backward_hook(lambda m, gx, gy: seen.append("backward"))
    model[0].weight.requires_grad_(False)
    twin = copy.deepcopy(model)
    torchbp.convert(model)
    assert not model[0].training and not model[0].weight.requires_grad
    alike(model, twin, image())
    assert seen == ["before", "backward"] * 2


def test_checkpoints_go_either_way(tmp_path: Path) -> None:
    model, plain = network(), network()
    torchbp.convert(model)
    for p in plain.parameters():
        nn.init.normal_(p)
    for source, target in ((plain, model), (model, plain)):
        nn.init.normal_(source[0].weight)
        torch.save(source.state_dict(), tmp_path / "checkpoint.pt")
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        target.load_state_dict(state, strict=True)
        assert list(state) == list(target.state_dict())
        alike(model, plain, image())


def test_three_steps_of_an_optimizer_that_was_made_before() -> None:
    trained = []
    for converts_at in (0, 1, None):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(3):
            if step == converts_at:
                torchbp.convert(model)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(image()), torch.tensor([1, 3])).backward()
            optimizer.step()
        trained.append(model.state_dict())
    for state in trained[:2]:
        torch.testing.assert_close(state, trained[2], rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------------
# Subclasses


class Held(nn.Conv2d):
    """Overrides what torchbp overrides, by super."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight / weight.norm(), bias)


class Masked(nn.Conv2d):
    """Overrides forward, and hands on to what torchbp overrides."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight.tril(), self.bias)


class Padded(nn.Conv2d):
    """Overrides forward and calls the function."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv2d(nn.functional.pad(input, (1, 1, 1, 1)), self.weight, self.bias)


class Around(nn.Conv2d):
    """Calls torch.nn's forward by its name."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.Conv2d.forward(self, input) + 1


class Further(Held):
    """A subclass of a subclass."""


class Permuting(nn.LSTM):
    """Overrides a method that torchbp's forward does not call."""

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        return super().permute_hidden(hx, permutation)


class Abstract(ABC):
    @abstractmethod
    def kind(self) -> str: ...


class Concrete(Abstract, nn.Conv2d):
    """Has a metaclass of its own."""

    def kind(self) -> str:
        return "concrete"


class Registered(nn.Conv2d):
    """Keeps a list of its subclasses, and demands a keyword of each."""

    known: list[type] = []

    def __init_subclass__(cls, key: str, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.known.append(cls)


class Kept(Registered, key="kept"):
    pass


class Reduced(nn.Conv2d):
    """Says itself how it is pickled."""

    def __reduce__(self) -> Any:
        return type(self), (1, self.out_channels, self.kernel_size), self.__dict__


class Slotted(nn.Conv2d):
    """Has state beside its __dict__."""

    __slots__ = ("extra",)


class Told(Abstract):
    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)


class Stubborn(Told, nn.Conv2d):
    """Python lets its objects have a class only whose first base is this one, so its bases would be told of it."""

    def kind(self) -> str:
        return "stubborn"


CONVERTED = (Held, Masked, Further, Concrete, Kept, Reduced, Slotted)
LEFT = {Padded: "forward", Around: "forward", Permuting: "permute_hidden"}


@pytest.mark.parametrize("cls", CONVERTED)
def test_subclasses_that_are_converted(cls: type) -> None:
    torch.manual_seed(0)
    layer = cls(1, 2, 3).double()
    twin, text, before = copy.deepcopy(layer), repr(layer), snapshot(layer)
    known = len(Registered.known)
    report = torchbp.convert(layer)
    assert len(report) == 1 and isinstance(layer, cls) and isinstance(layer, torchbp.nn.Conv2d)
    assert type(layer).__name__ == cls.__name__ and type(layer).__doc__ == cls.__doc__ and repr(layer) == text
    assert type(layer).__module__ == __name__ and len(Registered.known) == known
    alike(layer, twin, image())
    other = cls(1, 1, 1)
    torchbp.convert(other)
    assert type(other) is type(layer), "one class of each"
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    pickled = [pickle.loads(pickle.dumps(layer, protocol)) for protocol in (2, 4, 5)]
    for copied in (copy.copy(layer), copy.deepcopy(layer), loaded, *pickled):
        assert type(copied) is type(layer) and copied is not layer
        alike(copied, twin, image())
        assert list(torchbp.revert(copied)) == [""] and type(copied) is cls and "_torchbp_replaced" not in vars(copied)
    torchbp.revert(layer)
    assert_is_as_before(layer, before)


def test_the_subclass_uses_torchbps_layer() -> None:
    for cls in CONVERTED:
        layer = cls(1, 2, 3).double()
        torchbp.convert(layer)
        nodes = [node.name() for node in nodes_of([layer(image())])]
        assert nodes.count("ConvolutionBackward") == 1 and "ConvolutionBackward0" not in nodes, cls


@pytest.mark.parametrize("cls", LEFT)
def test_subclasses_that_are_left(cls: type) -> None:
    layer = cls(1, 2, 3) if issubclass(cls, nn.Conv2d) else cls(3, 4)
    report = torchbp.convert(nn.Sequential(layer))
    assert type(layer) is cls and report.left == {"0": f"{__name__}.{cls.__name__} overrides {LEFT[cls]}"}
    assert not vars(layer).keys() & {"_torchbp_replaced"}


def test_objects_that_cannot_change_their_class() -> None:
    layer = Stubborn(1, 2, 3)
    (reason,) = torchbp.convert(layer).left.values()
    assert reason.startswith("Python refuses: __class__ assignment") and "_torchbp_replaced" not in vars(layer)


def test_a_forward_of_the_instance() -> None:
    layer = nn.Linear(2, 2)
    layer.forward = types.MethodType(lambda self, x: x * 2, layer)
    assert torchbp.convert(layer).left == {"": "forward replaced on the instance"}
    assert torch.equal(layer(torch.ones(2)), torch.full((2,), 2.0))


def test_classes_of_a_function_leave_nothing_behind() -> None:
    import gc
    import weakref

    def local() -> weakref.ref:
        class Local(nn.Linear):
            pass

        layer = Local(2, 2)
        assert len(torchbp.convert(layer)) == 1
        assert type(copy.deepcopy(layer)) is type(layer)
        return weakref.ref(type(layer))

    reference = local()
    gc.collect()
    assert reference() is None


def test_subclasses_of_torchbps_layers_are_left_alone() -> None:
    class Own(torchbp.nn.Linear):
        pass

    model = nn.Sequential(Own(2, 2), torchbp.nn.ScaledTanh(), torchbp.nn.TransformerEncoderLayer(4, 2, 5), nn.ReLU())
    before = snapshot(model)
    report = torchbp.convert(model)
    assert list(report.converted) == ["2.self_attn.out_proj", "3"] and report.already["0"] is Own
    assert torchbp.revert(model).keys() == report.converted.keys()
    assert_is_as_before(model, before)


# --------------------------------------------------------------------------------------------------
# Layers that are lazy, parametrized, pruned, compiled or wrapped


class LazyOwn(nn.LazyLinear):
    """A lazy subclass that becomes torch.nn's layer."""


class LazyNamed(nn.LazyConv2d):
    """A lazy layer that becomes a subclass."""

    cls_to_become = Further


@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize("reverts", ["before", "after"])
@pytest.mark.parametrize(
    ("build", "becomes", "shape"),
    [
        (lambda: nn.LazyLinear(3), nn.Linear, (2, 4)),
        (lambda: LazyOwn(3), nn.Linear, (2, 4)),
        (lambda: nn.LazyConv2d(3, 2), nn.Conv2d, (2, 4, 5, 5)),
        (lambda: nn.LazyBatchNorm1d(), nn.BatchNorm1d, (2, 4, 5)),
        (lambda: LazyNamed(3, 2), Further, (2, 4, 5, 5)),
    ],
    ids=["linear", "own", "convolution", "norm", "subclass"],
)
def test_lazy_layers(build: Any, becomes: type, shape: tuple[int, ...], at: str, reverts: str) -> None:
    layer, plain, x = build(), build(), torch.randn(shape)
    for module in (layer, plain):
        torch.manual_seed(0)
        if module is layer and at == "before":
            torchbp.convert(module)
            assert nn.parameter.is_lazy(next(module.parameters()))
            if reverts == "before":
                torchbp.revert(module)
                assert type(module) is type(build()), "as it was"
                torchbp.convert(module)
        module(x)
    if at == "after":
        torchbp.convert(layer)
    assert isinstance(layer, becomes) and any(c in conversion._OURS for c in type(layer).__mro__)
    torch.testing.assert_close(results(layer, x), results(plain, x))
    torchbp.revert(layer)
    assert type(layer) is type(plain) is becomes


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def right_inverse(self, x: Tensor) -> Tensor:
        return x / 2


def parametrized(layer: nn.Module) -> None:
    parametrize.register_parametrization(layer, "weight", Doubled())
    parametrize.register_parametrization(layer, "bias", Doubled())


def unparametrized(layer: nn.Module) -> None:
    for name in list(layer.parametrizations):
        parametrize.remove_parametrizations(layer, name)


# Of a module whose weight is computed by a hook PyTorch makes no copies.
COPIED = ("parametrize", "weight norm", "spectral norm", "orthogonal")
CHANGES: dict[str, tuple[Taken, Taken]] = {
    "parametrize": (parametrized, unparametrized),
    "weight norm": (parametrizations.weight_norm, unparametrized),
    "spectral norm": (parametrizations.spectral_norm, unparametrized),
    "orthogonal": (parametrizations.orthogonal, unparametrized),
    "hooked weight norm": (weight_norm, torch.nn.utils.remove_weight_norm),
    "hooked spectral norm": (spectral_norm, torch.nn.utils.remove_spectral_norm),
    "pruning": (lambda layer: prune.l1_unstructured(layer, "weight", 0.4), lambda layer: prune.remove(layer, "weight")),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("order", ["C+-R", "C+R-", "+C-R", "+CR-"])
@pytest.mark.parametrize("cls", [nn.Linear, Scaled], ids=["layer", "subclass"])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_weights_before_and_after(change: str, cls: type, order: str) -> None:
    """C converts, R reverts, + applies the change and - removes it; after each the layer computes what a twin does."""
    layer = cls(4, 3).double()
    twin = copy.deepcopy(layer)
    steps = {"+": CHANGES[change][0], "-": CHANGES[change][1]}
    for step in order:
        for module in (layer, twin):
            torch.manual_seed(7)
            if step in steps:
                steps[step](module)
            elif module is layer:
                (torchbp.convert if step == "C" else torchbp.revert)(module)
        inside = "R" not in order[: order.index(step) + 1] and "C" in order[: order.index(step) + 1]
        assert isinstance(layer, torchbp.nn.Linear) is inside, step
        assert type(layer).__name__ == type(twin).__name__ and layer.state_dict().keys() == twin.state_dict().keys()
        x = torch.ones(2, 4, dtype=torch.float64)
        if change in COPIED:
            alike(copy.deepcopy(layer), copy.deepcopy(twin), x)
        alike(layer, twin, x)
    assert type(layer) is cls and vars(layer).keys() == vars(twin).keys()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_recurrent_layers_keep_their_flat_weights(bidirectional: bool) -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(3, 4, 2, bidirectional=bidirectional).double()
    twin, flat = copy.deepcopy(layer), list(layer._flat_weights)
    torchbp.convert(layer)
    assert all(a is b for a, b in zip(layer._flat_weights, flat, strict=True))
    sequence = rnn.pack_sequence([torch.randn(n, 3, dtype=torch.float64) for n in (4, 2)])
    torch.testing.assert_close(layer(sequence)[0].data, twin(sequence)[0].data)
    layer.weight_ih_l0 = nn.Parameter(torch.zeros_like(layer.weight_ih_l0))
    assert layer._flat_weights[0] is layer.weight_ih_l0
    layer.float().double()
    torchbp.revert(layer)
    assert type(layer) is nn.LSTM and layer._flat_weights[0] is layer.weight_ih_l0


def test_graph_modules_scripted_and_quantized_models() -> None:
    model = network()
    traced = torch.fx.symbolic_trace(model)
    report = torchbp.convert(traced)
    assert len(report) == 5 and type(traced.get_submodule("0")) is torchbp.nn.Conv2d
    alike(traced, network(), image())
    with pytest.warns(DeprecationWarning):
        scripted = torch.jit.trace(network().eval(), image())
    assert set(torchbp.convert(scripted).left.values()) == {"compiled by torch.jit"}
    trained = torch.ao.nn.qat.Linear(2, 2, qconfig=torch.ao.quantization.default_qconfig)
    report = torchbp.convert(nn.Sequential(trained))
    assert not len(report) and "overrides forward" in report.left["0"]


@pytest.mark.slow
def test_a_model_that_was_compiled() -> None:
    model = network()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected = results(compiled, image())
    assert len(torchbp.convert(compiled)) == 5 and type(model[0]) is torchbp.nn.Conv2d
    torch.testing.assert_close(results(compiled, image()), expected, rtol=1e-10, atol=1e-10)
    torchbp.revert(compiled)
    torch.testing.assert_close(results(compiled, image()), expected, rtol=1e-10, atol=1e-10)
    torch._dynamo.reset()


def test_distributed_wrappers(tmp_path: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        expected = results(network(), image())
        wrapped = nn.parallel.DistributedDataParallel(network())
        assert len(torchbp.convert(wrapped)) == 5
        torch.testing.assert_close(results(wrapped, image()), expected)
        for order in ("convert first", "shard first"):
            model = network()
            if order == "convert first":
                torchbp.convert(model)
            for layer in (model[0], model[5]):
                fully_shard(layer)
            fully_shard(model)
            if order == "shard first":
                assert len(torchbp.convert(model)) == 5
            assert isinstance(model[0], torchbp.nn.Conv2d) and type(model[0]).__name__ == "FSDPConv2d", order
            model(image()).square().sum().backward()
            torch.testing.assert_close([p.grad.to_local() for p in model.parameters()], expected[2:])
            torchbp.revert(model)
            assert not isinstance(model[0], torchbp.nn.Conv2d) and type(model[0]).__name__ == "FSDPConv2d", order
            model(image())
    finally:
        dist.destroy_process_group()


# --------------------------------------------------------------------------------------------------
# Which layers, and the report


def towers() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Linear(2, 2))),
            "decoder": nn.Sequential(nn.Linear(2, 2), nn.ReLU()),
        }
    )


ALL = ["encoder.0", "encoder.1", "encoder.2.0", "decoder.0", "decoder.1"]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("encoder", ["encoder.0", "encoder.1", "encoder.2.0"]),
        ("encoder.*", ["encoder.0", "encoder.1", "encoder.2.0"]),
        ("*.1", ["encoder.1", "decoder.1"]),
        ("nothing", []),
        (nn.Linear, ["encoder.0", "encoder.2.0", "decoder.0"]),
        (nn.Sequential, ALL),
        (lambda name, module: name.endswith("0"), ["encoder.0", "encoder.2.0", "decoder.0"]),
        (lambda name, module: not name, []),
        (["decoder", nn.ReLU], ["encoder.1", "decoder.0", "decoder.1"]),
        (("encoder.0", lambda name, module: name == "decoder.0"), ["encoder.0", "decoder.0"]),
        ([], []),
        ("", ALL),
    ],
)
def test_include_and_exclude(choice: Any, chosen: list[str]) -> None:
    model = towers()
    report = torchbp.convert(model, include=choice)
    assert list(report.converted) == chosen
    assert report.left == dict.fromkeys([name for name in ALL if name not in chosen], "not included")
    model = towers()
    report = torchbp.convert(model, exclude=choice)
    assert list(report.converted) == [name for name in ALL if name not in chosen]
    assert report.left == dict.fromkeys(chosen, "excluded")
    torchbp.convert(model)
    assert list(torchbp.revert(model, include=choice)) == chosen
    assert list(torchbp.revert(model)) == [name for name in ALL if name not in chosen]


def test_a_layer_of_two_names_is_excluded_by_either() -> None:
    layer = nn.Linear(2, 2)
    for name in ("first", "second"):
        model = nn.ModuleDict({"first": nn.Sequential(layer), "second": nn.Sequential(layer)})
        assert not len(torchbp.convert(model, exclude=name))
        assert len(torchbp.convert(model, include=name)) == 1
        torchbp.revert(model)


def test_a_layer_whose_parts_alone_are_chosen() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(4, 2, 5, 0.0, batch_first=True).double()
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 4, dtype=torch.float64)
    torchbp.convert(model, exclude=lambda name, module: not name)
    assert type(model) is nn.TransformerEncoderLayer and type(model.linear1) is torchbp.nn.Linear
    alike(model, twin, x)
    torchbp.revert(model)
    torchbp.convert(model, include=lambda name, module: not name)
    assert type(model) is torchbp.nn.TransformerEncoderLayer and type(model.linear1) is nn.Linear
    alike(model, twin, x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), twin.eval()(x))


def test_the_report() -> None:
    model = nn.Sequential(network(), Functional(2, 2), Custom(), nn.Identity(), torchbp.nn.ReLU(), nn.Sequential())
    report = torchbp.convert(model)
    assert list(report.converted) == ["0.0", "0.1", "0.2", "0.3", "0.5"]
    assert report.converted["0.0"] == (nn.Conv2d, torchbp.nn.Conv2d) and report.already == {"4": torchbp.nn.ReLU}
    assert report.left == {
        "0.4": "Flatten computes nothing",
        "1": f"{__name__}.Functional overrides forward",
        "2": f"torchbp has no layer for {__name__}.Custom",
        "3": "Identity computes nothing",
    }
    assert (len(report), report.explicit, report.total) == (5, 6, 10)
    text = str(report)
    assert text.startswith("5 of 10 layers converted, 1 were torchbp's already\n")
    assert "1 Conv2d" in text and f"1 {__name__}.Functional overrides forward: 1" in text
    assert "the model itself" in str(torchbp.convert(Custom()))
    with pytest.raises(AttributeError):
        report.left = {}  # type: ignore[misc]


@pytest.mark.parametrize("function", [torchbp.convert, torchbp.revert])
def test_errors_name_the_argument(function: Any) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got list"):
        function([nn.Linear(2, 2)])
    for argument in ("include", "exclude"):
        for wrong in (3, ["encoder", 3.5]):
            with pytest.raises(TypeError, match=f"^{argument} must be a pattern of names, .* got"):
                function(towers(), **{argument: wrong})


PAGE = (Path(__file__).resolve().parents[1] / "docs" / "use-it-in-your-model.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL), ids=range(2))
def test_programs_of_the_page(program: str) -> None:
    exec(compile(program, "use-it-in-your-model.md", "exec"), {})
