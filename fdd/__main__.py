"""``python -m fdd``: the same as the command ``fdd``."""

import sys

from fdd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
