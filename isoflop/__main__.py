"""`python -m isoflop` is the console script `isoflop`."""

import sys

from isoflop.cli import main

sys.exit(main())
