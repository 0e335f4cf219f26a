"""The build: without a compiler, without the extension, from an sdist, and against another torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from torchbp import _extension

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["csrc", "torchbp", "torchbp_pytest", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"]


def copy_sources(to: Path) -> Path:
    """Copy what the build needs, without anything built."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, to / name)
    return to


def run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


# --------------------------------------------------------------------------------------------------
# What is missing is said, with the remedy


def test_without_a_compiler_the_build_names_the_remedy(tmp_path: Path) -> None:
    done = run([sys.executable, "setup.py", "build_ext"], copy_sources(tmp_path), CXX="/nonexistent/c++")
    assert done.returncode != 0
    assert "no working C++ compiler" in done.stderr and "TORCHBP_BUILD_EXTENSION=0" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_that_python_is_missing(tmp_path: Path) -> None:
    done = run(["make", "-C", str(ROOT), f"VENV={tmp_path / 'venv'}", "PYTHON=", "build"], ROOT)
    assert done.returncode != 0
    assert "Python 3.10 or newer" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_that_a_compiler_is_missing(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".torch").touch()  # as if torch were installed already
    done = run(["make", "-C", str(ROOT), f"VENV={venv}", "build"], ROOT, CXX="/nonexistent/c++")
    assert done.returncode != 0
    assert "needs a C++ compiler" in done.stderr and "TORCHBP_BUILD_EXTENSION=0" in done.stderr


# --------------------------------------------------------------------------------------------------
# Without the extension


def test_an_install_without_the_extension_works_and_warns_once(tmp_path: Path) -> None:
    source = copy_sources(tmp_path / "source")
    program = (
        # An editable install would lend its extension to this copy.
        "import sys, warnings\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import torchbp, torch\n"
        "    import torchbp.nn.functional as F\n"
        "    x = torch.randn(2, 3, 6, 6, requires_grad=True)\n"
        "    F.max_pool2d(F.conv2d(x, torch.randn(4, 3, 3, 3)), 2).sum().backward()\n"
        "ours = [w for w in caught if 'compiled extension' in str(w.message)]\n"
        "assert len(ours) == 1, caught\n"
        "assert not torchbp.kernels_loaded()\n"
        "try:\n"
        "    torchbp.require_kernels()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    done = run([sys.executable, "-c", program], source, PYTHONPATH=str(source), TORCHBP_KERNELS="1")
    assert done.returncode == 0, done.stderr
    assert "installed without its compiled extension" in done.stdout


# --------------------------------------------------------------------------------------------------
# Another torch


def test_a_mismatch_is_explained_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    if not _extension.kernels_loaded():
        pytest.skip("the extension is not loaded")
    monkeypatch.setattr(torch, "__version__", "1.0.0")
    with pytest.raises(ImportError, match=r"was built for torch .*, but torch 1\.0\.0 is running\. Rebuild"):
        _extension._load()


def test_versions_agree_up_to_their_local_part() -> None:
    assert _extension._same_torch("2.13.0", "2.13.0+cpu")
    assert not _extension._same_torch("2.13.0", "2.13.1")


# --------------------------------------------------------------------------------------------------
# Packages


def test_an_unknown_instruction_set_is_named() -> None:
    done = run([sys.executable, "setup.py", "build_ext"], ROOT, TORCHBP_INSTRUCTION_SETS="avx2 sse9")
    assert done.returncode != 0 and "TORCHBP_INSTRUCTION_SETS" in done.stderr and "sse9" in done.stderr


@pytest.mark.slow
def test_an_sdist_unpacked_elsewhere_builds_a_wheel_that_works(tmp_path: Path) -> None:
    if not _extension.kernels_loaded():
        pytest.skip("this variant runs without the extension")
    done = run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", str(tmp_path), "."], ROOT)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert not list(folder.rglob("*.so"))
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path), "."]
    done = run(wheel, folder, TORCHBP_INSTRUCTION_SETS="baseline")
    assert done.returncode == 0, done.stderr + done.stdout
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as files:
        names = files.namelist()
        files.extractall(tmp_path / "installed")
    assert "torchbp/ops/schemas.def" in names and "torchbp/py.typed" in names
    assert "torchbp_pytest/__init__.py" in names
    assert any(name.startswith("torchbp/_C.") for name in names)
    program = (
        "import sys; sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
        "import torchbp; torchbp.require_kernels(); print(torchbp.__file__)\n"
        "assert torchbp.kernels_status()['instruction_sets_built'] == ['baseline']"
    )
    done = run([sys.executable, "-c", program], tmp_path, PYTHONPATH=str(tmp_path / "installed"))
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout
