"""PyTorch's own cases: every sample and every error input that its test suite keeps for a name of ours.

Cases are found by name, modules in ``common_modules.module_db`` and functions in
``common_methods_invocations.op_db``, so a layer joins by existing. A run takes an evenly spread share of
each list; ``--hypothesis-profile=thorough`` takes all of it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as builtin
from differences import several_writers
from torch import Tensor
from torch.autograd import forward_ad, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, ModuleInfo, module_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_flatten, tree_unflatten

import torchbp.nn as nn
from torchbp.nn import functional as F

FUNCTIONS = sorted(
    name
    for name, value in vars(F).items()
    if inspect.isfunction(value) and value.__module__.startswith(F.__name__) and not name.startswith("_")
)
IN_DB = {op.name for op in op_db}
OF_TORCH = {"cdist"}  # which PyTorch has in torch only
# torch.sigmoid is functional.sigmoid; but Tensor.unfold, say, is another thing than functional.unfold.
OPERATORS: list[tuple[str, OpInfo]] = [
    (name, op)
    for name in FUNCTIONS
    for op in op_db
    if op.name == (f"nn.functional.{name}" if f"nn.functional.{name}" in IN_DB else name)
    and (hasattr(builtin, name) or name in OF_TORCH)
]
MODULES: list[tuple[str, ModuleInfo]] = [
    (name, info) for name in nn.explicit_layers() for info in module_db if info.name == f"nn.{name}"
]
# What PyTorch keeps no cases for; test_modules.py and test_sampling.py have them.
WITHOUT_CASES = {
    "scaled_tanh": "PyTorch has no such function",
    "affine_grid": "PyTorch's op_db has none",
    "ScaledTanh": "PyTorch has no such module",
    **dict.fromkeys(
        [f"{name}_" for name in ("celu", "elu", "hardtanh", "leaky_relu", "relu", "rrelu", "selu", "threshold")],
        "PyTorch's op_db has the function that is not in place",
    ),
    **dict.fromkeys(
        (
            *("AlphaDropout", "Dropout", "Dropout2d", "Dropout3d", "FeatureAlphaDropout", "Hardsigmoid", "RReLU"),
            *("ChannelShuffle", "PixelShuffle", "PixelUnshuffle", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"),
            *("CosineSimilarity", "PairwiseDistance", "TripletMarginLoss", "TripletMarginWithDistanceLoss"),
        ),
        "PyTorch's module_db has none; its function is in op_db",
    ),
    "dropout1d": "PyTorch has cases of dropout2d and dropout3d",
    "Dropout1d": "the same",
    **dict.fromkeys(("lp_pool1d", "lp_pool2d", "lp_pool3d"), "PyTorch's op_db has none; its module is in module_db"),
    "SyncBatchNorm": "PyTorch's module_db has none; test_sync_batch_norm.py has them",
    "CrossMapLRN2d": "the same; test_parity_normalization.py has them",
    **{
        f"Lazy{kind}Norm{n}d": "PyTorch's module_db has none; it has the layer that it becomes"
        for kind in ("Batch", "Instance")
        for n in (1, 2, 3)
    },
    "LazyLinear": "the same",
    "AdaptiveLogSoftmaxWithLoss": "PyTorch's module_db has none",
    "EmbeddingBag": "PyTorch's module_db has none; its function is in op_db",
    "fold": "PyTorch has cases of unfold only",
    "Fold": "the same",
    "Unfold": "PyTorch's module_db has none; its function is in op_db",
    "TransformerDecoder": "PyTorch's module_db has none; Transformer has one",
    "upsample": "PyTorch has cases of interpolate, which it calls",
    "Upsample": "the same; its function is in op_db",
    "UpsamplingNearest2d": "the same",
    "UpsamplingBilinear2d": "the same",
}
# Samples that we refuse, with the reason; test_refused_samples proves that they exist and raise.
REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "batch_norm": (lambda args: args[0].dim() < 2, "a vector has no channels, and torch takes only an empty one"),
}


# Samples on which the built-in's gradient is not that of its value; test_pooling.py shows it and tests ours.
VALUE_ONLY: dict[str, tuple[Callable[[Any], bool], str]] = {
    name: (
        lambda args, name=name: several_writers(name, {"indices": args[1]}),
        "of several writers to one place one stays, but all get its gradient",
    )
    for name in ("max_unpool1d", "max_unpool2d", "max_unpool3d")
}
VALUE_ONLY |= dict.fromkeys(
    ("ctc_loss", "CTCLoss"),
    (lambda args: True, "the gradient is the derivative behind log_softmax only; test_ctc_loss.py compares it there"),
)


# Functions whose built-in second derivative is off by more than rounding: by how much, and why.
INEXACT: dict[str, tuple[float, str]] = {
    "binary_cross_entropy": (1e-6, "the built-in adds 1e-12 to x (1 - x) in its second derivative"),
    "BCELoss": (1e-6, "the same"),
}


# Modules, and variants of functions, whose built-in is differentiable once and has no forward mode, or silently zeros;
# test_layers.py has the rest.
ONCE_VARIANTS = {"chunked", "chunked_none"}
ONCE = {"MultiMarginLoss", "MultiLabelMarginLoss", "CTCLoss", "LinearCrossEntropyLoss"}


# What overflows in the built-in only, in float16.
OVERFLOWS = {("soft_margin_loss", torch.float16)}


def builtin_function(name: str) -> Callable[..., Any]:
    return getattr(torch if name in OF_TORCH else builtin, name)


# The built-in's derivative, 1/6, has float32's digits in every dtype; test_activation.py shows it and tests ours.
TOLERANCES = {"hardsigmoid": 2e-8}


def order_of(name: str, info: OpInfo | ModuleInfo, arguments: Any) -> int:
    """Return up to which order the built-in's derivatives are those of its value."""
    if name in VALUE_ONLY and VALUE_ONLY[name][0](arguments):
        return 0
    once = name in ONCE or getattr(info, "variant_test_name", "") in ONCE_VARIANTS
    return 2 if info.supports_gradgrad and not once else 1


def tolerance_of(name: str) -> float:
    return INEXACT[name][0] if name in INEXACT else TOLERANCES.get(name, 1e-10)


def test_every_name_has_cases_or_a_reason() -> None:
    covered = {name for name, _ in (*OPERATORS, *MODULES)}
    missing = {*FUNCTIONS, *nn.explicit_layers()} - covered
    assert missing == set(WITHOUT_CASES)


# --------------------------------------------------------------------------------------------------
# Running one case


@pytest.fixture(scope="module")
def spread(request: pytest.FixtureRequest) -> Callable[[Iterable[Any], int], list[Any]]:
    """Return a function that picks at most so many items, evenly spread, or all of them when thorough."""
    thorough = request.config.getoption("--hypothesis-profile") == "thorough"

    def pick(items: Iterable[Any], count: int) -> list[Any]:
        found = list(items)
        if thorough or len(found) <= count:
            return found
        return [found[i * (len(found) - 1) // (count - 1)] for i in range(count)]

    return pick


@dataclass
class Case:
    """A call: the same arguments, new leaves at each use."""

    function: Callable[..., Any]
    arguments: Any
    process: Callable[[Any], Any] = lambda output: output

    def fresh(self) -> tuple[list[Any], Any]:
        """Return the flattened arguments, copied, and their structure."""
        flat, structure = tree_flatten(self.arguments)
        return [copied(value) if isinstance(value, Tensor) else value for value in flat], structure

    def call(self, flat: Sequence[Any], structure: Any) -> Tensor:
        args, kwargs = tree_unflatten(flat, structure)
        torch.manual_seed(3)
        output = self.process(self.function(*args, **kwargs))
        return output[0] if isinstance(output, tuple) else output

    def places(self) -> list[int]:
        return [i for i, v in enumerate(tree_flatten(self.arguments)[0]) if isinstance(v, Tensor) and v.requires_grad]


def copied(tensor: Tensor) -> Tensor:
    """Return a new leaf of the same values and strides."""
    if tensor.numel() == 0 or 0 in tensor.stride():
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)
    new = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    return new.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


def cotangent(output: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if output.is_complex() else torch.float64
    return torch.randn(output.shape, generator=generator, dtype=wide).to(output.dtype)


def derivatives(case: Case, order: int) -> list[Tensor]:
    """Return the value, the arguments as the call left them, and all derivatives up to an order."""
    flat, structure = case.fresh()
    output = case.call(flat, structure)
    wanted = [flat[i] for i in case.places()]
    results = [output.detach(), *(v.detach() for v in flat if isinstance(v, Tensor))]
    if not wanted or not output.requires_grad or order == 0:
        return results
    g = cotangent(output).requires_grad_()
    gradients = torch.autograd.grad(
        output, wanted, g, create_graph=order > 1, allow_unused=True, materialize_grads=True
    )
    results += [gradient.detach() for gradient in gradients]
    if order > 1:
        pairs = [(h, cotangent(h, 2 + i)) for i, h in enumerate(gradients) if h.requires_grad]
        second = torch.autograd.grad(
            [h for h, _ in pairs], [*wanted, g], [v for _, v in pairs], allow_unused=True, materialize_grads=True
        )
        results += [h.detach() for h in second]
    return results


def tangent(case: Case) -> Tensor:
    """Return the derivative along random directions, by forward mode."""
    flat, structure = case.fresh()
    with forward_ad.dual_level():
        for i, place in enumerate(case.places()):
            primal = flat[place].detach()
            flat[place] = forward_ad.make_dual(primal, cotangent(primal, 7 + i))
        found = forward_ad.unpack_dual(case.call(flat, structure))
        return torch.zeros_like(found.primal) if found.tangent is None else found.tangent.clone()


def equal(actual: Sequence[Tensor], expected: Sequence[Tensor], what: str, tolerance: float = 1e-10) -> None:
    assert len(actual) == len(expected), f"{what}: {len(actual)} results, expected {len(expected)}"
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == e.dtype and a.shape == e.shape, (
            f"{what}, result {i}: {a.dtype} {a.shape}, {e.dtype} {e.shape}"
        )
        torch.testing.assert_close(
            a,
            e,
            rtol=tolerance,
            atol=tolerance * scale(e),
            equal_nan=True,
            msg=lambda m, i=i: f"{what}, result {i}: {m}",
        )


def scale(tensor: Tensor) -> float:
    """Return the largest finite absolute value, at least 1: what a sum's rounding is measured by."""
    finite = (
        tensor[tensor.isfinite()].abs() if tensor.is_floating_point() or tensor.is_complex() else tensor.new_ones(1)
    )
    return max(1.0, float(finite.max())) if finite.numel() else 1.0


def raised(function: Callable[[], Any]) -> type[BaseException] | None:
    try:
        function()
    except Exception as error:
        return type(error)
    return None


# --------------------------------------------------------------------------------------------------
# Functions


def identified(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    ids = [
        f"{name}-{value.variant_test_name}" if getattr(value, "variant_test_name", "") else name
        for name, value in pairs
    ]
    # One transformer takes as long as all of another layer.
    slow = [[pytest.mark.slow] if name.startswith("Transformer") else [] for name, _ in pairs]
    return {"argvalues": [pytest.param(*pair, marks=m) for pair, m in zip(pairs, slow, strict=True)], "ids": ids}


# What op_db gives in another order than the function takes.
SWAPPED = {"embedding", "embedding_bag"}


def placed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function in the order of its samples' arguments."""
    return (lambda a, b, *args, **kwargs: function(b, a, *args, **kwargs)) if name in SWAPPED else function


def samples(name: str, op: OpInfo, dtype: torch.dtype, requires_grad: bool) -> Iterator[tuple[Case, Case]]:
    """Yield each sample input that we take as a call of ours and one of the built-in."""
    for sample in op.sample_inputs("cpu", dtype, requires_grad=requires_grad):
        arguments = ((sample.input, *sample.args), sample.kwargs)
        if name not in REFUSED or not REFUSED[name][0](arguments[0]):
            both = (placed(getattr(F, name), name), placed(builtin_function(name), name))
            yield tuple(Case(function, arguments, sample.output_process_fn_grad) for function in both)


@contextmanager
def comparable() -> Iterator[None]:
    """Silence what the built-in warns of (dim not given, size_average); test_errors.py has the warnings.

    And choose the form of the built-in's attention that has more than one derivative.
    """
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with comparable():
        yield


@pytest.mark.parametrize("name", REFUSED)
def test_refused_samples(name: str) -> None:
    found = 0
    for sample in next(op for n, op in OPERATORS if n == name).sample_inputs("cpu", torch.float64):
        if REFUSED[name][0]((sample.input, *sample.args)):
            found += 1
            with pytest.raises(RuntimeError, match="input"):
                getattr(F, name)(sample.input, *sample.args, **sample.kwargs)
    assert found


@pytest.mark.parametrize(("name", "op"), **identified(OPERATORS))
def test_function_derivatives(name: str, op: OpInfo, spread: Any) -> None:
    """Value, what is left in the arguments, first and second derivatives, float64 and complex128."""
    for dtype in (torch.float64, torch.complex128):
        if dtype not in op.supported_backward_dtypes("cpu"):
            continue
        for i, (mine, theirs) in enumerate(spread(samples(name, op, dtype, True), 20)):
            order, tolerance = order_of(name, op, theirs.arguments[0]), tolerance_of(name)
            what = f"{dtype} sample {i} {theirs.arguments}"
            if name in INEXACT and order == 2:
                equal(derivatives(mine, 1), derivatives(theirs, 1), what)
            equal(derivatives(mine, order), derivatives(theirs, order), what, tolerance)


@pytest.mark.parametrize(("name", "op"), **identified(OPERATORS))
def test_function_forward_mode(name: str, op: OpInfo, spread: Any) -> None:
    if not op.supports_forward_ad:
        pytest.skip("the built-in has no forward mode")
    for i, (mine, theirs) in enumerate(spread(samples(name, op, torch.float64, True), 25)):
        if theirs.places():
            equal([tangent(mine)], [tangent(theirs)], f"sample {i} {theirs.arguments}", tolerance_of(name))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "op"), **identified(OPERATORS))
def test_function_gradgradcheck(name: str, op: OpInfo, spread: Any) -> None:
    """Finite differences confirm the second derivative of a few small samples."""

    def small(pair: tuple[Case, Case]) -> bool:
        flat, _ = pair[0].fresh()
        return bool(pair[0].places()) and sum(v.numel() for v in flat if isinstance(v, Tensor)) <= 60

    for mine, _ in spread(filter(small, samples(name, op, torch.float64, True)), 3):
        flat, structure = mine.fresh()
        places = mine.places()

        def function(*wanted: Tensor, mine=mine, flat=flat, structure=structure, places=places) -> Tensor:
            given = [v.detach().clone() if isinstance(v, Tensor) else v for v in flat]
            for place, value in zip(places, wanted, strict=True):
                given[place] = value
            return mine.call(given, structure)

        assert gradgradcheck(function, tuple(flat[i] for i in places), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "op"), **identified(OPERATORS))
def test_function_dtypes(name: str, op: OpInfo, spread: Any) -> None:
    """Every dtype that the built-in takes, integers included; the dtype that it refuses is refused alike."""
    for dtype in sorted(op.supported_dtypes("cpu"), key=str):
        if (name, dtype) in OVERFLOWS:
            continue
        tolerance = 1e-10 if not dtype.is_floating_point and not dtype.is_complex else 64 * torch.finfo(dtype).eps
        for i, (mine, theirs) in enumerate(spread(samples(name, op, dtype, False), 8)):
            expected = raised(lambda theirs=theirs: derivatives(theirs, 0))
            what = f"{dtype} sample {i} {theirs.arguments}"
            if expected is not None:
                assert raised(lambda mine=mine: derivatives(mine, 0)) is expected, what
            else:
                equal(derivatives(mine, 0), derivatives(theirs, 0), what, tolerance)


@pytest.mark.parametrize(("name", "op"), **identified([(n, o) for n, o in OPERATORS if o.error_inputs_func]))
def test_function_errors(name: str, op: OpInfo) -> None:
    for i, error in enumerate(op.error_inputs("cpu")):
        sample = error.sample_input
        arguments = ((sample.input, *sample.args), sample.kwargs)
        cases = [Case(function, arguments) for function in (getattr(F, name), builtin_function(name))]
        mine, theirs = (raised(partial(derivatives, case, 0)) for case in cases)
        assert theirs is not None, f"the built-in takes error input {i}: {arguments}"
        assert mine is theirs, f"error input {i}: raised {mine}, expected {theirs}: {arguments}"


# --------------------------------------------------------------------------------------------------
# Modules


def module_cases(
    name: str, info: ModuleInfo, training: bool, requires_grad: bool = True
) -> Iterator[tuple[Case, Case, str]]:
    """Yield each module input as a call of our module and one of torch.nn's, parameters and buffers as arguments."""
    for given in info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=requires_grad, training=training
    ):
        if given.forward_input is None:
            continue
        args, kwargs = given.constructor_input.args, given.constructor_input.kwargs
        modules = []
        for place in (nn, torch.nn):
            torch.manual_seed(5)
            module = getattr(place, name)(*args, **kwargs).to(torch.float64).train(training)
            if any(torch.nn.parameter.is_lazy(p) for p in module.parameters()):
                module(*given.forward_input.args, **given.forward_input.kwargs)  # draws the parameters
            modules.append(module)
        state = {
            k: v.detach().requires_grad_(k in dict(modules[0].named_parameters()))
            for k, v in modules[0].state_dict().items()
        }
        arguments = ((state, *given.forward_input.args), given.forward_input.kwargs)

        mine, theirs = (Case(functional(module), arguments) for module in modules)
        yield mine, theirs, given.desc


def functional(module: torch.nn.Module) -> Callable[..., Any]:
    """Return a call that takes the module's parameters and buffers first."""
    return lambda state, *args, **kwargs: torch.func.functional_call(module, state, args, kwargs)


@pytest.mark.parametrize("training", (True, False), ids=("training", "evaluation"))
@pytest.mark.parametrize(("name", "info"), **identified(MODULES))
def test_module_derivatives(name: str, info: ModuleInfo, training: bool, spread: Any) -> None:
    for i, (mine, theirs, desc) in enumerate(spread(module_cases(name, info, training), 30)):
        order = order_of(name, info, ())
        equal(derivatives(mine, order), derivatives(theirs, order), f"input {i} {desc}", tolerance_of(name))


@pytest.mark.parametrize(("name", "info"), **identified([(n, m) for n, m in MODULES if n not in ONCE]))
def test_module_forward_mode(name: str, info: ModuleInfo, spread: Any) -> None:
    for i, (mine, theirs, desc) in enumerate(spread(module_cases(name, info, True), 10)):
        equal([tangent(mine)], [tangent(theirs)], f"input {i} {desc}")


@pytest.mark.parametrize(("name", "info"), **identified([(n, m) for n, m in MODULES if m.module_error_inputs_func]))
def test_module_errors(name: str, info: ModuleInfo) -> None:
    for training in (True, False):
        for error in info.module_error_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=False, training=training
        ):
            found = [raised(partial(provoke, place, name, error, training)) for place in (nn, torch.nn)]
            assert found[1] is not None, f"torch.nn takes {error.module_error_input.desc}"
            assert found[0] is found[1], f"raised {found[0]}, expected {found[1]}: {error.error_regex}"


def provoke(place: Any, name: str, error: Any, training: bool) -> None:
    """Make the module of one error input and, if the error belongs there, call it."""
    given = error.module_error_input
    module = getattr(place, name)(*given.constructor_input.args, **given.constructor_input.kwargs)
    if error.error_on == ModuleErrorEnum.FORWARD_ERROR:
        module.train(training)(*given.forward_input.args, **given.forward_input.kwargs)
