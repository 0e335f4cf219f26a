"""Instructions of the kernels, counted by callgrind: the same however busy the machine is.

    python benchmarks/instructions.py [--capability avx2] [--case winograd] [--json FILE] [--compare FILE]

Needs valgrind with its headers and a C compiler. The second call of an operator is counted, on one thread, from Python
and back, some ten thousand instructions more than its kernel. Valgrind knows no AVX-512: AVX2 is the widest instruction
set. ``--compare`` prints the ratio to what ``--json`` wrote before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from torchbp import ops

REQUESTS = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char* name) { CALLGRIND_DUMP_STATS_AT(name); }
"""
# Input channels, output channels, size, kernel, stride, padding, groups, and the algorithms that are counted.
CONVOLUTIONS = (
    (64, 64, 28, 3, 1, 1, 1, ("winograd_2x4", "winograd_4x4", "direct", "panels")),
    (64, 64, 28, 3, 2, 1, 1, ("winograd_2x2", "direct")),
    (64, 64, 28, 5, 1, 2, 1, ("winograd_2x2", "direct")),
    (64, 64, 28, 2, 2, 0, 1, ("patches", "direct")),
    (3, 32, 32, 5, 1, 2, 1, ("direct", "panels")),
    (64, 128, 28, 1, 1, 0, 1, ("patches", "direct")),
    (64, 64, 28, 3, 1, 1, 64, ("depthwise",)),
    (64, 64, 28, 5, 2, 2, 64, ("depthwise",)),
)
POOLS = ((2, 2, 0), (3, 2, 1), (3, 1, 1))  # kernel, stride, padding

Run = Callable[[], object]


def cases() -> Iterator[tuple[str, Run]]:
    """Yield names and calls."""
    for format, suffix in ((torch.contiguous_format, ""), (torch.channels_last, ", channels last")):
        for name, run in (*_convolutions(format), *_pools(format), *_normalizations(format)):
            yield name + suffix, run


def _drawn(*shape: int, format: torch.memory_format) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=format)


def _convolutions(format: torch.memory_format) -> Iterator[tuple[str, Run]]:
    call = torch.ops.torchbp
    for c, o, size, k, s, p, groups, algorithms in CONVOLUTIONS:
        x, w = _drawn(1, c, size, size, format=format), _drawn(o, c // groups, k, k, format=format)
        geometry = ([s, s], [p, p], [1, 1], groups)
        g = torch.randn_like(call.convolution(x, w, None, *geometry))
        products: dict[str, Run] = {
            "output": lambda x=x, w=w, a=geometry: call.convolution(x, w, None, *a),
            "gradient of input": lambda g=g, w=w, n=size, a=geometry: call.convolution_input(g, w, None, [n, n], *a),
            "gradient of weight": lambda g=g, x=x, k=k, a=geometry: call.convolution_weight(x, g, [k, k], *a),
        }
        for algorithm in algorithms:
            for product, run in products.items():
                name = f"convolution {k}x{k} stride {s} {c}-{o}, {algorithm}, {product}"
                yield name, lambda run=run, algorithm=algorithm: _forced(algorithm, run)


def _forced(algorithm: str, run: Run) -> object:
    with ops.force_convolution_algorithm(algorithm):
        return run()


def _pools(format: torch.memory_format) -> Iterator[tuple[str, Run]]:
    call = torch.ops.torchbp
    x = _drawn(1, 64, 56, 56, format=format)
    for k, s, p in POOLS:
        window = ([k, k], [s, s], [p, p])
        y, winner = call.max_pool(x, *window, [1, 1], False)
        g = torch.randn_like(y)
        name = f"pooling {k}x{k} stride {s}"
        yield f"max {name}, output", lambda a=window: call.max_pool(x, *a, [1, 1], False)
        yield (
            f"max {name}, gradient",
            lambda g=g, i=winner, a=window: call.max_pool_scatter(g, i, [56, 56], *a, [1, 1]),
        )
        rest = (False, True, None)
        yield f"average {name}, output", lambda a=window, r=rest: call.average_pool(x, *a, *r)
        yield f"average {name}, gradient", lambda g=g, a=window, r=rest: call.average_pool_adjoint(g, [56, 56], *a, *r)


def _normalizations(format: torch.memory_format) -> Iterator[tuple[str, Run]]:
    import torchbp.nn.functional as F

    x = _drawn(1, 64, 56, 56, format=format)
    w, b = torch.randn(64), torch.randn(64)
    yield "batch norm, output", lambda: F.batch_norm(x, None, None, w, b, training=True)
    yield "group norm, output", lambda: F.group_norm(x, 8, w, b)
    yield "softmax, output", lambda: F.softmax(x, 1)
    yield "gelu, output", lambda: F.gelu(x)


def count(pattern: str) -> None:
    """Run inside callgrind: let it dump the counts of every case, by name."""
    requests = ctypes.CDLL(os.environ["REQUESTS"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gc.disable()
    chosen = [(name, run) for name, run in cases() if re.search(pattern, name)]
    for _, run in chosen:
        run()
    requests.start()
    with torch.no_grad():
        for name, run in chosen:
            requests.zero()
            run()
            requests.dump(name.encode())


def counts(capability: str, pattern: str) -> dict[str, int]:
    """Return the instructions of every case."""
    for needed in ("valgrind", "cc"):
        if shutil.which(needed) is None:
            sys.exit(f"{needed} is needed and was not found")
    with tempfile.TemporaryDirectory() as folder:
        source, library, out = Path(folder, "requests.c"), Path(folder, "requests.so"), Path(folder, "out")
        source.write_text(REQUESTS)
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", source, "-o", library], check=True)
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        inside = [sys.executable, __file__, "--inside", "--case", pattern]
        plain = {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [*tool, *inside],
            env={**os.environ, **plain, "REQUESTS": str(library)},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        found = {}
        for path in sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:])):
            text = path.read_text()
            name = re.search(r"^desc: Trigger: Client Request: (.*)$", text, re.MULTILINE)
            total = re.search(r"^(?:summary|totals): (\d+)$", text, re.MULTILINE)
            if name and total:
                found[name[1]] = int(total[1])
        return found


def main() -> None:
    """Count, print, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", default="avx2", choices=("default", "avx2"))
    parser.add_argument("--case", default="", metavar="PATTERN", help="only cases whose names hold this expression")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return count(arguments.case)
    found = counts(arguments.capability, arguments.case)
    before = json.loads(arguments.compare.read_text()) if arguments.compare else {}
    table = Table("case", "instructions / 1000", *["ratio to before"] * bool(before), title=arguments.capability)
    for name, number in found.items():
        ratio = [f"{number / before[name]:.3f}" if name in before else "-"] * bool(before)
        table.add_row(name, f"{number / 1000:.0f}", *ratio)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
