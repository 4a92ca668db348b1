"""Launchers by name."""

from sweeps.launch import local, ray, slurm
from sweeps.launch.launcher import Launcher, OnEvent, Options
from training.errors import BadInput, nearest

LAUNCHERS: dict[str, Launcher] = {"local": local, "slurm": slurm, "ray": ray}

__all__ = ["LAUNCHERS", "Launcher", "OnEvent", "Options", "launcher"]


def launcher(name: str) -> Launcher:
    """The launcher of that name.

    Raises:
        BadInput: there is none.
    """
    if name not in LAUNCHERS:
        raise BadInput(f"--launcher: no launcher {name!r}{nearest(name, LAUNCHERS)} (known: {', '.join(LAUNCHERS)})")
    return LAUNCHERS[name]
