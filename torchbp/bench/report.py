"""Results as tables, and as the page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchbp.bench.peers import FIGURES, FORWARD, STEP, TORCHBP, is_ours
from torchbp.bench.process import TUNED
from torchbp.bench.results import OK, CaseResult, Change, Results, best_builtin, geometric_mean, ratio
from torchbp.bench.suite import MODEL_FAMILY
from torchbp.costs.timing import Timing

Group = tuple[str, int, str]  # allocator, threads, dtype

_SLOWEST = 10
_ALL = "all layers"
_HEADS = [figure.replace(" ", "\n") for figure in FIGURES]


@dataclass(frozen=True)
class Table:
    """A table of text: the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def groups(results: Results) -> list[Group]:
    """Return the settings of ``results``, in the order measured."""
    return list(dict.fromkeys((case.allocator, case.threads, case.dtype) for case in results.cases))


def preferred_groups(results: Results) -> list[Group]:
    """Return the settings shown case by case: those with the tuned allocator, if there are any."""
    found = groups(results)
    return [group for group in found if group[0] == TUNED] or found


def cases_of(results: Results, group: Group) -> list[CaseResult]:
    """Return what was timed under one setting."""
    return [case for case in results.cases if (case.allocator, case.threads, case.dtype) == group and case.status == OK]


def label(group: Group) -> str:
    """Return the setting in words."""
    allocator, threads, dtype = group
    return f"{allocator} allocator, {threads} {'thread' if threads == 1 else 'threads'}, {dtype}"


def ratios(cases: Iterable[CaseResult], figure: str, peer: str) -> list[float]:
    """Return the ratios of ``peer`` to the best built-in one for ``figure``, of every case that has both."""
    return [ratio(case.timings[figure], peer) for case in cases if peer in case.timings.get(figure, {})]


def times_over_floor(cases: Iterable[CaseResult], figure: str, *, ours: bool) -> list[float]:
    """Return the time over the floor: torchbp's on contiguous tensors, or the best built-in one."""
    found = []
    for case in cases:
        timings = case.timings.get(figure)
        if timings and TORCHBP.name in timings:
            timing = timings[TORCHBP.name] if ours else best_builtin(timings)[1]
            found.append(timing.median / case.floors[figure])
    return found


def by_family(cases: Sequence[CaseResult]) -> dict[str, list[CaseResult]]:
    """Return ``cases`` by family, networks last; and all layers together where there is more than one family."""
    families: dict[str, list[CaseResult]] = {}
    for case in cases:
        families.setdefault(case.family, []).append(case)
    networks = families.pop(MODEL_FAMILY, None)
    if len(families) > 1:
        families[_ALL] = [case for case in cases if case.family != MODEL_FAMILY]
    if networks is not None:
        families[MODEL_FAMILY] = networks
    return families


def summary_tables(results: Results) -> list[Table]:
    """Return what ``torchbp bench`` prints."""
    tables = [_family_table(results, group) for group in groups(results)]
    tables += [_floor_table(results, group) for group in preferred_groups(results)]
    tables += [_slowest_table(results), _model_table(results), _cost_table(results), _resident_table(results)]
    return [table for table in tables if table.rows]


def case_table(results: Results, group: Group, family: str) -> Table:
    """Return the ratios and the times over the floor of every case of ``family``."""
    rows = []
    for case in cases_of(results, group):
        if case.family != family:
            continue
        for peer in _our_peers([case]):
            cells = []
            for figure in FIGURES:
                timings = case.timings.get(figure)
                if timings is None:
                    cells.append("-")
                else:
                    over = timings[peer].median / case.floors[figure]
                    cells.append(f"{ratio(timings, peer):.2f} ({_number(over)})")
            rows.append([_with_format(case.case, peer), *cells])
    return Table(f"{family}, ratio (time over floor): {label(group)}", ["case", *_HEADS], rows)


def problems(results: Results) -> list[str]:
    """Return a line for everything that is wrong, failed, was left out or could not be measured."""
    lines = [
        f"{case.status.upper() if case.status != OK else 'note'}: {case.case}, "
        f"{label((case.allocator, case.threads, case.dtype))}: {case.detail}"
        for case in results.cases
        if case.detail
    ]
    lines += [f"note: {note}" for note in results.notes]
    if results.left_out:
        lines.append(f"Not in torchbp.nn, left out: {', '.join(results.left_out)}.")
    if not results.complete:
        lines.append("Interrupted: these are the cases measured until then.")
    return lines


def comparison_table(changes: Sequence[Change]) -> Table:
    """Return the changed ratios of two runs."""
    rows = [
        [
            _with_format(change.row.case, change.row.peer),
            change.row.figure,
            f"{change.row.allocator}, {change.row.threads}",
            f"{change.old_ratio:.2f}",
            f"{change.new_ratio:.2f}",
            "faster" if change.faster else "SLOWER",
        ]
        for change in changes
    ]
    columns = ["case", "figure", "allocator,\nthreads", "old", "new", ""]
    return Table("Ratios that changed by more than their spread", columns, rows)


def to_markdown(results: Results, images: Sequence[tuple[str, str]]) -> str:
    """Return the page of ``results``; ``images`` are captions and paths relative to the page."""
    machine = [f"| {name} | {value} |" for name, value in results.machine.items()]
    parts = [
        "# Performance",
        f"This page is written by `{results.command}`; `make bench` measures it anew on your machine.",
        "\n".join(["| | |", "|---|---|", *machine]),
        _HOW_TO_READ,
        *(f"![{caption}]({path})" for caption, path in images),
        *(_markdown_table(table) for table in summary_tables(results)),
    ]
    lines = problems(results)
    if lines:
        parts.append("\n".join(["## Notes", "", *(f"- {line}" for line in lines)]))
    parts.append("## Every case\n\nRatio to the best built-in way and, in brackets, torchbp's time over the floor.")
    for group in preferred_groups(results):
        for family in dict.fromkeys(case.family for case in cases_of(results, group)):
            table = case_table(results, group, family)
            body = _markdown_table(Table("", table.columns, table.rows))
            parts.append(f"<details><summary>{table.title}</summary>\n\n{body}\n\n</details>")
    return "\n\n".join(parts) + "\n"


_HOW_TO_READ = """\
## How to read it

- A **ratio** is the median time of the best built-in way over torchbp's: 2 means that torchbp takes half the time,
  below 1 that it is slower. The built-in ways are `torch.nn` on contiguous and on channels-last tensors (and under
  `torch.compile` with `--compile`); a row says in which format torchbp's tensors are. All ways are timed in turn in
  one process, on the same numbers. Families show the geometric mean over their cases and, in brackets, the worst.
  convolution-3x3 and convolution-1x1 have stride 1; convolution-2d-other are strides, wider kernels and first layers,
  convolution-other dilation, groups, one dimension and three.
- **Figures**: the forward pass with a gradient recorded, the gradient of the input alone, the gradient of the weights
  alone, and the step that computes all of it. A step of a network includes loss and optimiser (momentum).
- The **floor** is the time that the bytes which must move would take at the bandwidth measured for a copy of that
  size, or the multiply-adds at the speed measured for a large matrix product, whichever is longer. Bytes count once:
  input, weights and output; backward the arriving gradient, what was saved, and the gradients. Batch norm reads its
  input twice.
- **default** is the allocator as a process finds it, **tuned** is with `torchbp.allocator.keep_freed_memory()`, for
  PyTorch's layers and torchbp's alike. Without it, much of the time of a large layer is page faults.
- Before a case is timed, output and gradients of every way are compared with the built-in in float64; a case in which
  torchbp is wrong is not timed and is listed as WRONG. For ScaledTanh, which torch.nn lacks, and CrossMapLRN2d, which
  is another map there, the built-in way is the formula and LocalResponseNorm. **Errors** are the largest absolute
  error over the largest value.
- **Kept** is what autograd holds for backward in a step, parameters not counted. **Peak resident size** is that of a
  fresh process that runs three steps, PyTorch and the data included.
- Times of two machines, or of two runs, mean little beside each other; ratios of one run do."""


def _family_table(results: Results, group: Group) -> Table:
    rows = []
    for family, members in by_family(cases_of(results, group)).items():
        for peer in _our_peers(members):
            counted = sum(peer in case.timings.get(FORWARD, {}) for case in members)
            cells = [_mean_and_worst(ratios(members, figure, peer)) for figure in FIGURES]
            rows.append([_with_format(family, peer), str(counted), *cells])
    return Table(f"Ratio, mean (worst): {label(group)}", ["family", "cases", *_HEADS], rows)


def _floor_table(results: Results, group: Group) -> Table:
    rows = []
    for family, members in by_family(cases_of(results, group)).items():
        cells = []
        for figure in FIGURES:
            ours, theirs = (times_over_floor(members, figure, ours=side) for side in (True, False))
            cells.append(" / ".join(_number(geometric_mean(side)) for side in (ours, theirs)) if ours else "-")
        rows.append([family, *cells])
    return Table(f"Time over floor, torchbp / best built-in: {label(group)}", ["family", *_HEADS], rows)


def _slowest_table(results: Results) -> Table:
    found = []
    for case in results.cases:
        for figure, timings in case.timings.items():
            for peer in filter(is_ours, timings):
                compared = ratio(timings, peer)
                if compared < 1:
                    setting = f"{case.allocator}, {case.threads}"
                    cells = [_with_format(case.case, peer), figure, setting, _format(best_builtin(timings)[0])]
                    found.append((compared, [*cells, f"{compared:.2f}"]))
    found.sort(key=lambda entry: entry[0])
    columns = ["case", "figure", "allocator,\nthreads", "best\nbuilt-in", "ratio"]
    title = f"The smallest of the {len(found)} ratios below 1"
    return Table(title, columns, [cells for _, cells in found[:_SLOWEST]])


def _model_table(results: Results) -> Table:
    rows = []
    for group in groups(results):
        for case in cases_of(results, group):
            if case.family == MODEL_FAMILY:
                step = case.timings[STEP]
                ours = min(filter(is_ours, step), key=lambda peer: step[peer].median)
                name, theirs = best_builtin(step)
                cells = [_format(name), _milliseconds(theirs), _format(ours), _milliseconds(step[ours])]
                rows.append([case.case, f"{group[0]}, {group[1]}", *cells, f"{ratio(step, ours):.2f}"])
    columns = ["network", "allocator,\nthreads", "best\nbuilt-in", "step, ms", "best\ntorchbp", "step, ms", "ratio"]
    return Table("A training step of whole networks", columns, rows)


def _cost_table(results: Results) -> Table:
    rows = []
    for group in preferred_groups(results)[:1]:
        for family, members in by_family(cases_of(results, group)).items():
            errors = [
                max((max(found.values()) for case in members for name, found in case.errors.items() if pick(name)))
                for pick in (is_ours, lambda name: not is_ours(name))
            ]
            kept = [sum(case.saved_bytes.get(name, 0) for case in members) / 2**20 for name in ("torchbp", "torch")]
            rows.append([family, *(f"{error:.1e}" for error in errors), *(f"{value:.1f}" for value in kept)])
    columns = ["family", "error\ntorchbp", "error\nbuilt-in", "kept, MiB\ntorchbp", "kept, MiB\ntorch"]
    return Table("Largest error against float64; kept for backward, all cases", columns, rows)


def _resident_table(results: Results) -> Table:
    sizes = {(entry.case, entry.allocator, entry.peer): entry.peak for entry in results.resident}
    names = list(dict.fromkeys(case for case, _, _ in sizes))
    ways = list(dict.fromkeys((allocator, peer) for _, allocator, peer in sizes))
    rows = [[name, *(_mebibytes(sizes.get((name, *way))) for way in ways)] for name in names]
    columns = ["case", *(f"{peer}\n{allocator}" for allocator, peer in ways)]
    return Table("Peak resident size, MiB", columns, rows)


def _our_peers(cases: Iterable[CaseResult]) -> list[str]:
    return sorted({peer for case in cases for timings in case.timings.values() for peer in timings if is_ours(peer)})


def _with_format(name: str, peer: str) -> str:
    """``name``, with the peer's memory format where it is not contiguous."""
    return " ".join([name, *peer.split(" ")[1:]])


def _format(peer: str) -> str:
    return peer.partition(" ")[2] or "contiguous"


def _milliseconds(timing: Timing) -> str:
    return f"{timing.median * 1e3:.1f}"


def _mean_and_worst(values: Sequence[float]) -> str:
    return f"{geometric_mean(values):.2f} ({min(values):.2f})" if values else "-"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f}"


def _markdown_table(table: Table) -> str:
    lines = [[column.replace("\n", " ") for column in table.columns], *table.rows]
    drawn = ["| " + " | ".join(cells) + " |" for cells in lines]
    drawn.insert(1, "|---|" + "---:|" * (len(table.columns) - 1))
    return "\n".join([f"### {table.title}", "", *drawn] if table.title else drawn)
