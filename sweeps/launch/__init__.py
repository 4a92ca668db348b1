"""Launchers by name."""

import importlib

from sweeps.launch.launcher import Launcher, Options, View
from training.errors import BadInput, nearest

NAMES = ("local", "slurm", "ray")

__all__ = ["NAMES", "Launcher", "Options", "View", "launcher"]


def launcher(name: str) -> Launcher:
    """The launcher of that name.

    Raises:
      BadInput: there is none.
    """
    if name not in NAMES:
        raise BadInput(f"--launcher: no launcher {name!r}{nearest(name, NAMES)} (known: {', '.join(NAMES)})")
    return importlib.import_module(f"sweeps.launch.{name}")  # type: ignore[return-value]
