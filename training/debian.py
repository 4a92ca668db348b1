"""Debian packages as data: fetched with apt and unpacked into a folder; nothing is installed."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from training.errors import Absent, BadInput
from training.files import locked

VERSION = ".version"  # the file that keeps a package's version beside its content


def fetch(package: str, cache: Path, key: str) -> Path:
    """The folder in which a package lies unpacked; fetched where it is not there yet.

    Args:
      package: its name.
      cache: the package is unpacked in its folder `debian`.
      key: the config key that asks for it, for messages.

    Raises:
      BadInput: a name that is none.
      Absent: no such package, no apt, or no way to the archive.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", package):
        raise BadInput(f"{key}: {package!r} is no name of a Debian package")
    folder = cache / "debian" / package
    if folder.is_dir():
        return folder
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise Absent(f"{key}: fetching the Debian package {package} needs {tool}, which this machine lacks")
    with locked(folder.with_name(f"{package}.lock"), "", wait=True):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{package}-") as scratch:

                def run(*command: str) -> str:
                    return _run(f"{key}: {package}", command, scratch)

                run("apt-get", "download", "-q", package)
                archive = str(next(Path(scratch).glob("*.deb")))
                unpacked = Path(scratch, "unpacked")
                run("dpkg-deb", "-x", archive, str(unpacked))
                (unpacked / VERSION).write_text(run("dpkg-deb", "-f", archive, "Version").strip())
                unpacked.rename(folder)
    return folder


def _run(where: str, command: tuple[str, ...], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.splitlines() or ["failed"]
        first = next((line for line in lines if line.startswith("E:")), lines[0])
        raise Absent(f"{where}: {' '.join(command[:2])}: {first.removeprefix('E: ')}")
    return done.stdout
