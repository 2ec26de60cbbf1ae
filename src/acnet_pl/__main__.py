"""``python -m acnet_pl``."""

import sys

from acnet_pl.cli import main

if __name__ == "__main__":
    sys.exit(main())
