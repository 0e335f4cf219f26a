"""``torchbp bench``: measure torchbp's layers beside the built-in ones, or show and compare what was measured."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from torchbp.cli.errors import InputError, require_known
from torchbp.cli.output import console, progress, require_writable, table, write_json

if TYPE_CHECKING:
    from torchbp.bench.measure import Setting
    from torchbp.bench.report import Table
    from torchbp.bench.results import Results
    from torchbp.bench.suite import Case

_QUICK_ROUNDS = 3
_CASES_IN_FULL = 12  # so many cases or fewer are printed one by one

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Settings:
    """The options of ``torchbp bench``."""

    quick: bool = False
    models: bool | None = None
    families: Sequence[str] = ()
    patterns: Sequence[str] = ()
    threads: Sequence[int] = ()
    allocator: str = "both"
    rounds: int | None = None
    dtype: str = "float32"
    compiled: bool = False
    algorithms: bool = False
    json: Path | None = None
    csv: Path | None = None
    plot: Path | None = None
    docs: Path | None = None
    source: Path | None = None
    compare: tuple[Path, Path] | None = None
    list: bool = False

    def command(self) -> str:
        """The command that measures the same."""
        words = ["torchbp", "bench"]
        words += ["--quick"] * self.quick
        if self.models is not None:
            words.append("--models" if self.models else "--layers")
        for option, values in (("family", self.families), ("case", self.patterns), ("threads", self.threads)):
            for value in values:
                words += [f"--{option}", str(value)]
        words += ["--allocator", self.allocator] * (self.allocator != "both")
        words += ["--rounds", str(self.rounds)] * (self.rounds is not None)
        words += ["--dtype", self.dtype] * (self.dtype != "float32")
        words += ["--compile"] * self.compiled
        words += ["--algorithms"] * self.algorithms
        return shlex.join(words)


def run(settings: Settings) -> int:
    """Do what ``settings`` say and return the exit code: 1 if a case is wrong or has failed.

    Raises:
        InputError: an option or a file is wrong; all are looked at before anything is measured.
    """
    if settings.compare is not None:
        _compare(*settings.compare)
        return 0
    _check_outputs(settings)
    if settings.source is not None:
        from torchbp.bench.results import read

        results = _read(settings.source, read)
    else:
        chosen = _chosen_cases(settings)
        if settings.list:
            for case in chosen:
                print(case.name)
            return 0
        results = _measure(settings, chosen)
    _show(settings, results)
    return 1 if any(case.status != "ok" for case in results.cases) else 0


def _chosen_cases(settings: Settings) -> list[Case]:
    from torchbp.bench import suite

    known = suite.cases()
    require_known("family", settings.families, list(dict.fromkeys(case.family for case in known)))
    if settings.models is not None:
        known = [case for case in known if case.is_model == settings.models]
    chosen = suite.select(known, families=settings.families, patterns=settings.patterns, quick=settings.quick)
    if not chosen:
        raise InputError("no case is left; torchbp bench --list shows all of them")
    return chosen


def _measure(settings: Settings, chosen: Sequence[Case]) -> Results:
    """Measure every setting in a process of its own. Interrupted, leave what there is in the files asked for."""
    from torchbp.bench import machine, process, suite
    from torchbp.bench.results import Results

    results = Results(machine.facts(), settings.command(), left_out=suite.left_out())
    allocators, missing = _allocators(settings)
    results.notes += [missing] * bool(missing)
    different = list(_process_settings(settings, allocators))
    # A process for each: torch.nn's and torchbp's, at the largest number of threads.
    threads = max(setting.threads for setting in different)
    residents = [
        (case, peer, setting)
        for setting in different
        if setting.threads == threads
        for case in chosen
        if case.resident and (case.is_model or not settings.quick)
        for peer in ("torch", "torchbp")
    ]
    try:
        with progress("case") as bar:
            task = bar.add_task("", total=len(chosen) * len(different) + len(residents), case="")
            for setting in different:
                bar.update(task, description=f"{setting.allocator}, threads: {setting.threads}")
                for result in process.case_results(chosen, setting):
                    results.cases.append(result)
                    bar.update(task, advance=1, case=result.case)
            for case, peer, setting in residents:
                bar.update(task, description=f"memory, {setting.allocator}", case=f"{case.name}: {peer}")
                try:
                    results.resident.append(process.resident(case, peer, setting))
                except process.Died as error:
                    results.notes.append(f"peak resident size of {case.name}, {peer}: {error}")
                bar.advance(task)
    except KeyboardInterrupt:
        _write(settings, results)
        raise
    results.complete = True
    return results


def _process_settings(settings: Settings, allocators: Sequence[str]) -> Iterator[Setting]:
    from torchbp.bench import machine
    from torchbp.bench.measure import Setting

    rounds = _QUICK_ROUNDS if settings.quick and settings.rounds is None else settings.rounds
    for allocator in allocators:
        for threads in dict.fromkeys(settings.threads or (1, machine.cores())):
            yield Setting(allocator, threads, settings.dtype, rounds, settings.compiled, settings.algorithms)


def _allocators(settings: Settings) -> tuple[list[str], str]:
    """The allocator settings to measure, and why one that was not asked for by name is missing."""
    from torchbp.bench.process import ALLOCATORS, DEFAULT, TUNED, why_not_tuned

    wanted = list(ALLOCATORS) if settings.allocator == "both" else [settings.allocator]
    reason = why_not_tuned() if TUNED in wanted else ""
    if not reason:
        return wanted, ""
    if settings.allocator == TUNED:
        raise InputError(f"--allocator {TUNED}: {reason}")
    return [DEFAULT], f"no {TUNED} allocator: {reason}"


def _show(settings: Settings, results: Results) -> None:
    from torchbp.bench import report

    _write(settings, results)
    if settings.plot is not None:
        from torchbp.bench.plot import plot

        plot(results, settings.plot)
    if settings.docs is not None:
        from torchbp.bench.plot import plot

        # The pictures stand in a folder of the page's name.
        pictures = plot(results, settings.docs.with_suffix(""))
        images = [(caption, path.relative_to(settings.docs.parent).as_posix()) for caption, path in pictures]
        settings.docs.write_text(report.to_markdown(results, images), encoding="utf-8")
    if str(settings.json) == "-":
        return
    tables = report.summary_tables(results)
    if len({case.case for case in results.cases}) <= _CASES_IN_FULL:
        for group in report.groups(results):
            families = dict.fromkeys(case.family for case in report.cases_of(results, group))
            tables += [report.case_table(results, group, family) for family in families]
    for each in tables:
        _print(each)
    for line in report.problems(results):
        console().print(line, markup=False, soft_wrap=True)


def _write(settings: Settings, results: Results) -> None:
    if settings.json is not None:
        write_json(results.to_dict(), settings.json)
    if settings.csv is not None:
        from torchbp.bench.results import write_csv

        write_csv(results, settings.csv)


def _print(shown: Table) -> None:
    drawn = table(shown.title, *shown.columns)
    for cells in shown.rows:
        drawn.add_row(*cells)
    console().print(drawn)


def _compare(old: Path, new: Path) -> None:
    from torchbp.bench import report
    from torchbp.bench.results import compare, read_rows

    changes, compared = compare(_read(old, read_rows), _read(new, read_rows))
    if changes:
        _print(report.comparison_table(changes))
    faster = sum(change.faster for change in changes)
    console().print(f"ratios compared: {compared}, better: {faster}, worse: {len(changes) - faster}")


def _read(path: Path, reader: Callable[[Path], _Read]) -> _Read:
    try:
        return reader(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _check_outputs(settings: Settings) -> None:
    files = {"--json": settings.json, "--csv": settings.csv, "--docs": settings.docs}
    named: dict[Path, str] = {}
    for option, path in files.items():
        if path is None or (option == "--json" and str(path) == "-"):
            continue
        require_writable(option, path)
        if path in named:
            raise InputError(f"{named[path]} and {option} both name {path}")
        named[path] = option
    if settings.docs is not None and settings.docs.suffix != ".md":
        raise InputError(f"--docs {settings.docs}: not a .md file")
    if settings.plot is not None and (settings.plot.exists() and not settings.plot.is_dir()):
        raise InputError(f"--plot {settings.plot}: not a directory")
    if settings.plot is not None or settings.docs is not None:
        import matplotlib  # noqa: F401  # missing, it is better known before measuring
    parent = settings.plot.absolute().parent if settings.plot is not None else None
    if parent is not None and not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise InputError(f"--plot {settings.plot}: cannot be written")
