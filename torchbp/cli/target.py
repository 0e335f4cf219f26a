"""What the command line names as ``module:expression``: functions, layers and models of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from torchbp.cli.errors import InputError


def load(what: str, where: str) -> Any:
    """Return what an expression means in a module: ``package.module:name``, ``file.py:Layer(3, 4)``.

    Raises:
        InputError: ``where``, which is to be ``what``, cannot be imported or evaluated.
    """
    place, colon, expression = where.partition(":")
    if not (place and colon and expression):
        raise InputError(f"{what} {where}: must be module:name or file.py:name")
    module = _module(what, place)
    try:
        return eval(expression, dict(vars(module)))
    except Exception as error:
        raise InputError(f"{what} {where}: {type(error).__name__}: {error}") from error


def _module(what: str, place: str) -> Any:
    path = Path(place)
    try:
        if path.suffix == ".py":
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            sys.path.insert(0, str(path.resolve().parent))
            spec.loader.exec_module(module)
            return module
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    except Exception as error:
        raise InputError(f"{what} {place}: cannot be imported: {type(error).__name__}: {error}") from error
