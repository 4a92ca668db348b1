"""Commented configs to start from: `isoflop init run`, `isoflop init sweep` and `isoflop init study` copy them."""
