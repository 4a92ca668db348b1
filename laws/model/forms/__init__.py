"""The laws, as a table of declarations, one file a theme; and laws from files of one's own.

A new law is one more ``laws.model.law.Law`` in the ``LAWS`` of its theme.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

from laws.base.errors import InputError, nearest
from laws.model.forms import (
    allocation,
    breaks,
    compression,
    data,
    downstream,
    experts,
    power,
    replicas,
    schedule,
    shape,
    transfer,
    tuning,
)
from laws.model.law import Law

THEMES = (
    allocation,
    power,
    breaks,
    data,
    shape,
    downstream,
    tuning,
    experts,
    compression,
    transfer,
    schedule,
    replicas,
)
LAWS: dict[str, Law] = {law.name: law for theme in THEMES for law in theme.LAWS}


def find(name: str | Law) -> Law:
    """The law of that name, or of ``file.py:NAME``; a ``Law`` passes through.

    Raises:
        InputError: no law has the name (the message lists the laws), or the file does not declare one.
    """
    if isinstance(name, Law):
        return name
    if ".py:" in name:
        return _from_file(name)
    if name not in LAWS:
        raise InputError(
            f"no law is called '{name}'{nearest(name, LAWS)} Laws: {', '.join(LAWS)}; or file.py:NAME for your own"
        )
    return LAWS[name]


def _from_file(origin: str) -> Law:
    """The declaration ``NAME`` of ``file.py:NAME``, which is run to read it."""
    path, _, name = origin.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise InputError(f"{path}: no such file (of law {name})")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from error
    law = getattr(module, name, None)
    if not isinstance(law, Law):
        declared = [key for key, value in vars(module).items() if isinstance(value, Law)]
        raise InputError(f"{path}: '{name}' is no law{nearest(name, declared)} Laws: {', '.join(declared) or 'none'}")
    return replace(law, origin=origin)
