"""``python -m torchbp.cli``: the ``torchbp`` command without its entry point."""

import sys

from torchbp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
