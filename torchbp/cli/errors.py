"""The error the command line reports as one line."""


class InputError(Exception):
    """An option, a path or a data file is wrong: one line on stderr, exit code 2."""
