"""The error the command line reports as one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class InputError(Exception):
    """An option, a path or a data file is wrong: one line on stderr, exit code 2."""


def require_known(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise InputError, with what comes near, unless every one of ``names`` is in ``known``."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), known, n=3) or sorted(known)
            raise InputError(f"--{kind} {name}: no such {kind}; try {', '.join(near)}")
