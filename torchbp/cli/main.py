"""Entry point of the ``torchbp`` command: runs the application, turns errors into one line each."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torchbp.cli.errors import InputError

# Import names of what the extra brings, numpy and scipy included: scikit-learn and mlxtend need them.
_EXTRA = {"typer", "click", "rich", "matplotlib", "mlxtend", "sklearn", "numpy", "scipy", "pandas", "joblib"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``torchbp`` with ``arguments`` (the process's own by default) and return its exit code.

    0: success; 1: ``torchbp check`` found a failure; 2: an option, a path or a data file is wrong, or the
    packages of ``torchbp[cli]`` are missing; 130: interrupted with Ctrl-C.
    """
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        return _fail(f"the command line needs {missing}, install it with: pip install torchbp[cli]")
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    import typer

    from torchbp.cli.app import app

    # typer gives this class no public name; every error in the arguments is one, BadParameter included.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    try:
        code = app(arguments, prog_name="torchbp", standalone_mode=False)
    except usage_error as error:
        message = error.format_message()  # type: ignore[attr-defined]
        return _fail(message) if message else 2  # no message: the help was shown instead
    except typer.Abort:
        return 130
    return int(code or 0)


def _fail(message: str) -> int:
    print("torchbp:", " ".join(message.split()), file=sys.stderr)
    return 2
