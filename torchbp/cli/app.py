"""The commands and options of ``torchbp``; what they do is imported only when they run."""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="PyTorch layers whose backward pass is written out and proved.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Data(str, Enum):
    """Data sets."""

    mnist5k = "mnist5k"
    digits = "digits"
    mnist = "mnist"


class Model(str, Enum):
    """Networks."""

    lenet = "lenet"
    mlp = "mlp"


class Which(str, Enum):
    """Sides of the comparison."""

    both = "both"
    torch = "torch"
    torchbp = "torchbp"


class Precision(str, Enum):
    """Number formats."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"


class Dtype(str, Enum):
    """Number formats of ``check``."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Allocator(str, Enum):
    """Settings of the memory allocator."""

    default = "default"
    tuned = "tuned"
    both = "both"


def _show_version(wanted: bool) -> None:
    if wanted:
        from torchbp.cli.info import version

        typer.echo(f"torchbp {version()}")
        raise typer.Exit


def _positive(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value} is not a finite number above 0.")
    return value


def _below_one(value: float) -> float:
    if not 0 <= value < 1:
        raise typer.BadParameter(f"{value} is not in the range 0<=x<1.")
    return value


@app.callback()
def _torchbp(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    data: Annotated[
        Data,
        typer.Option(help="mnist5k: 5,000 digits of 28x28; digits: 1,797 of 8x8; mnist: files in --root."),
    ] = Data.mnist5k,
    root: Annotated[Path | None, typer.Option(help="Directory of the four MNIST idx files, plain or .gz.")] = None,
    model: Annotated[Model, typer.Option(help="The network.")] = Model.lenet,
    side: Annotated[Which, typer.Option(help="Which layers to train with.")] = Which.both,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a mini-batch.")] = 32,
    lr: Annotated[float, typer.Option(callback=_positive, help="Learning rate; falls to 0 along a cosine.")] = 0.03,
    momentum: Annotated[float, typer.Option(callback=_below_one, help="Momentum.")] = 0.9,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of the split, the weights and the batches.")
    ] = 0,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; PyTorch's choice by default.")] = None,
    dtype: Annotated[Precision, typer.Option(help="Number format; bfloat16 through autocast.")] = Precision.float32,
    default_allocator: Annotated[
        bool,
        typer.Option("--default-allocator", help="Leave the C library's allocator alone; else it keeps freed memory."),
    ] = False,
    plot: Annotated[Path, typer.Option(help="File of the loss curves.")] = Path("loss.png"),
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw nothing.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write every result as JSON to this file; - prints it, and no tables.")
    ] = None,
) -> None:
    """Train a network on handwritten digits with torch.nn and with torchbp.nn side by side."""
    from torchbp.cli import train as command

    command.run(
        command.Settings(
            data=data.value,
            root=root,
            model=model.value,
            side=side.value,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            momentum=momentum,
            seed=seed,
            threads=threads,
            dtype=dtype.value,
            default_allocator=default_allocator,
            plot=None if no_plot else plot,
            json=json,
        )
    )


@app.command()
def check(
    function: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:FUNCTION]",
            help="Your own function, module or autograd.Function: package.module:name or file.py:name.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(help='Its inputs, e.g. "randn(2, 3, 8, 8)"; several at once or one by one.'),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="What computes the same, to compare with.")
    ] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Check only this layer; may be given several times.")] = None,
    property: Annotated[
        list[str] | None, typer.Option(help="Check only this property; may be given several times.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="NAME=REASON", help="Leave a property out; may be given several times.")
    ] = None,
    dtype: Annotated[
        list[Dtype] | None, typer.Option(help="Compare the value in this number format; may be given several times.")
    ] = None,
    batched: Annotated[
        list[int] | None, typer.Option(min=0, help="Number of an input whose first dimension is a batch; from 0.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Count no forward mode, no vmap and so on as failed.")
    ] = False,
    no_compile: Annotated[bool, typer.Option("--no-compile", help="Leave torch.compile out.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of all that is drawn.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Prove every layer on this machine, or a function of your own; exit code 1 if anything fails."""
    from torchbp.cli import check as command

    if function is None:
        own = {
            "--inputs": inputs,
            "--reference": reference,
            "--skip": skip,
            "--dtype": dtype,
            "--batched": batched,
            "--strict": strict,
            "--no-compile": no_compile,
        }
        for option, value in own.items():
            if value:
                raise typer.BadParameter(f"{option} goes with a function of yours, MODULE:FUNCTION.")
        raise typer.Exit(command.run(layer or [], property or [], as_json=json))
    if layer:
        raise typer.BadParameter("--layer goes without a function of yours.")
    target = command.Target(
        where=function,
        inputs=inputs or [],
        reference=reference,
        skip=skip or [],
        dtypes=[one.value for one in dtype or []],
        batched=batched or [],
        strict=strict,
        compile=not no_compile,
        seed=seed,
    )
    raise typer.Exit(command.run_target(target, property or [], as_json=json))


@app.command()
def cost(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:MODEL",
            help="Your model, or what makes it when called: package.module:name or file.py:Network(3, 4).",
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(help='Its inputs, e.g. "randn(2, 3, 8, 8)"; several at once or one by one.'),
    ] = None,
    keyword: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=INPUT", help="A named input; may be given several times."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Convert only layers of such names; may be given several times."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Convert no layers of such names; may be given several times."),
    ] = None,
    evaluation: Annotated[bool, typer.Option("--eval", help="In evaluation mode; else in training mode.")] = False,
    no_time: Annotated[bool, typer.Option("--no-time", help="Measure no times.")] = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Rounds of every time; by its length by default.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Threads; PyTorch's choice by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of weights and inputs.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Write it all as JSON to this file; - prints it, and no tables.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Write the table as a picture to this file.")] = None,
) -> None:
    """Show what every layer of a model costs, before and after conversion."""
    from torchbp.cli import cost as command

    command.run(
        command.Settings(
            where=model,
            inputs=inputs or [],
            keywords=keyword or [],
            include=include or [],
            exclude=exclude or [],
            evaluation=evaluation,
            time=not no_time,
            rounds=rounds,
            threads=threads,
            seed=seed,
            json=json,
            png=png,
        )
    )


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="A sample of every family, in less than two minutes.")] = False,
    models: Annotated[
        bool | None, typer.Option("--models/--layers", help="Only networks, or only layers; both by default.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Only this family of layers; may be given several times.")
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Only cases with this in their names, or matching this pattern; may be given several times."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1024, help="Threads; may be given several times; 1 and all cores by default."),
    ] = None,
    allocator: Annotated[
        Allocator, typer.Option(help="The allocator as it is, or after torchbp.allocator.keep_freed_memory().")
    ] = Allocator.both,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Rounds of every figure; by its time by default.")
    ] = None,
    dtype: Annotated[Precision, typer.Option(help="Number format.")] = Precision.float32,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile as a peer as well; slow.")] = False,
    algorithms: Annotated[
        bool, typer.Option("--algorithms", help="Convolutions by every algorithm that takes them as well.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="Write everything to this file; - prints it, and no tables.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every timing to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Directory of the plots.")] = None,
    docs: Annotated[Path | None, typer.Option(help="Write the results as a page, .md, with its plots.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Show results that --json wrote, measure nothing.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="OLD NEW", help="Compare two files that --json or --csv wrote, measure nothing."),
    ] = None,
    list_cases: Annotated[bool, typer.Option("--list", help="Print the names of the cases, measure nothing.")] = False,
) -> None:
    """Time every layer beside torch.nn's, checked first; exit code 1 if a result is wrong."""
    from torchbp.cli import bench as command

    settings = command.Settings(
        quick=quick,
        models=models,
        families=family or [],
        patterns=case or [],
        threads=threads or [],
        allocator=allocator.value,
        rounds=rounds,
        dtype=dtype.value,
        compiled=compile,
        algorithms=algorithms,
        json=json,
        csv=csv,
        plot=plot,
        docs=docs,
        source=source,
        compare=compare,
        list=list_cases,
    )
    raise typer.Exit(command.run(settings))


@app.command()
def info(json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Show versions, threads, and whether the C++ kernels are loaded."""
    from torchbp.cli import info as command

    command.run(as_json=json)
