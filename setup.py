"""Builds the extension torchbp._C.

Environment variables:
    TORCHBP_BUILD_EXTENSION  0 installs without compiled kernels (composite formulas only); default 1.
    TORCHBP_SANITIZE         1 adds AddressSanitizer and UndefinedBehaviourSanitizer, as `make sanitize` does.
    TORCHBP_INSTRUCTION_SETS of avx2 and avx512 those to compile kernels for, e.g. "avx2", beside the baseline;
                             all by default. A smaller extension that builds sooner.
    MAX_JOBS                 how many compilers run at once.

The leaf kernels in csrc/cpu/kernels are compiled once per instruction set and chosen at run time, so
one binary serves every processor of its architecture.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent.resolve()
REMEDY = "To install without compiled kernels, set TORCHBP_BUILD_EXTENSION=0."
# Strict comparisons are not needed (no kernel reads floating-point flags); NaN and infinity are kept.
KERNEL_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
# vptr checks would need the type information that PyTorch and pybind11 hide.
SANITIZE_FLAGS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-O1",
    "-g1",
]
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"],
}


def instruction_sets() -> list[str]:
    """Return the instruction sets that this architecture has beyond its baseline, plainest first."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    known = list(INSTRUCTION_SETS) if x86 else ["baseline"]
    wanted = os.environ.get("TORCHBP_INSTRUCTION_SETS", " ".join(known)).replace(",", " ").split()
    if unknown := set(wanted) - set(known):
        sys.exit(f"torchbp: TORCHBP_INSTRUCTION_SETS must be some of {known}, got {sorted(unknown)}")
    return [name for name in known if name == "baseline" or name in wanted]


def compiler() -> str:
    """Return the C++ compiler, or end with a message that names the remedy."""
    command = os.environ.get("CXX", "c++")
    try:
        subprocess.run([*command.split(), "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"torchbp: no working C++ compiler ({command!r}: {error}). Install g++ or clang++. {REMEDY}")
    return command


def accepts(command: str, flags: list[str]) -> bool:
    """Tell whether the compiler takes the flags and links a program with them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("int main() { return 0; }\n")
        probe = subprocess.run(
            [*command.split(), *flags, str(source), "-o", str(Path(folder, "probe"))], capture_output=True
        )
    return probe.returncode == 0


def compile_kernels(command: str, folder: Path, names: list[str], extra: list[str]) -> list[str]:
    """Compile every kernel file for every instruction set, if it changed, and return the objects."""
    kernels = Path("csrc/cpu/kernels")
    newest_header = max(path.stat().st_mtime for path in [*kernels.glob("*.h"), Path("setup.py")])
    jobs: list[tuple[list[str], Path]] = []
    objects = []
    for name in names:
        for source in sorted(kernels.glob("*.cpp")):
            target = folder / name / (source.stem + ".o")
            objects.append(str(target))
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and target.stat().st_mtime > max(newest_header, source.stat().st_mtime):
                continue
            flags = [*KERNEL_FLAGS, *INSTRUCTION_SETS[name], f"-DTORCHBP_ISA={name}", *extra]
            jobs.append(([*command.split(), *flags, "-c", str(source), "-o", str(target)], target))
    workers = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))

    def compile_one(job: tuple[list[str], Path]) -> None:
        print(" ".join(job[0]), flush=True)
        subprocess.run(job[0], check=True)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        list(pool.map(compile_one, jobs))
    return objects


def extension_arguments() -> dict[str, object]:
    """Return setup()'s arguments for the extension; empty where it is switched off."""
    if os.environ.get("TORCHBP_BUILD_EXTENSION", "1") == "0":
        return {}
    # An sdist or metadata needs neither torch nor a compiler.
    if not {"bdist_wheel", "build_ext", "install", "develop", "editable_wheel", "build"} & set(sys.argv):
        return {}
    try:
        import pybind11
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        sys.exit(
            f"torchbp: the build needs torch and pybind11 in this environment ({error}). Install torch first, "
            f"then build with --no-build-isolation. {REMEDY}"
        )
    command = compiler()
    names = [name for name in instruction_sets() if accepts(command, INSTRUCTION_SETS[name])]
    openmp = ["-fopenmp"] if accepts(command, ["-fopenmp"]) else []
    if not openmp:
        print("torchbp: this compiler has no -fopenmp; the kernels will run on one thread.", file=sys.stderr)

    sanitize = SANITIZE_FLAGS if os.environ.get("TORCHBP_SANITIZE") == "1" else []

    class Build(BuildExtension):
        def build_extensions(self) -> None:
            self.extensions[0].extra_objects += compile_kernels(
                command, Path(self.build_temp, "kernels"), names, sanitize
            )
            super().build_extensions()

    extension = CppExtension(
        "torchbp._C",
        sorted(str(path) for path in [*Path("csrc").glob("*.cpp"), *Path("csrc/cpu").glob("*.cpp")]),
        include_dirs=[str(ROOT / "csrc"), str(ROOT / "torchbp" / "ops"), pybind11.get_include()],
        define_macros=[(f"TORCHBP_HAVE_{name.upper()}", None) for name in names if name != "baseline"],
        extra_compile_args=["-O2", "-g0", "-fvisibility=hidden", *openmp, *sanitize],
        extra_link_args=[*openmp, *sanitize],
        depends=[str(path) for path in [*Path("csrc").rglob("*.h"), Path("torchbp/ops/schemas.def")]],
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


os.chdir(ROOT)
setup(**extension_arguments())
