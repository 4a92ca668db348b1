"""`python -m isoflop` is the console script `isoflop`."""

from isoflop.cli import entry

entry()
