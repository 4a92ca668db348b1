"""The laws, as a table of declarations, one file a theme; and laws from files of one's own.

A new law is one more ``laws.model.law.Law`` in the ``LAWS`` of its theme. Laws of one variable are declared once for all
variables: ``power_offset_c`` and its like for n, d and c stand in ``LAWS``, and ``find`` makes any other.

Example:
    >>> LAWS["chinchilla"].formula
    'L(N, D) = E + A / N^alpha + B / D^beta'
    >>> LAWS["chinchilla"].names
    ('A', 'B', 'E', 'alpha', 'beta')
    >>> find("power_offset_width").formula
    'L(w) = E + k / w^p'
"""

import functools
import importlib.util
from collections.abc import Callable
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
    mixing,
    power,
    replicas,
    schedule,
    shape,
    transfer,
    tuning,
)
from laws.model.law import Law
from laws.model.variables import VARIABLES

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
    mixing,
)
LAWS: dict[str, Law] = {law.name: law for theme in THEMES for law in theme.LAWS}
FAMILIES: dict[str, Callable[[str], Law]] = {**power.FAMILIES, **breaks.FAMILIES}


@functools.cache
def shipped(name: str) -> Law | None:
    """The package's own law of that name: one of ``LAWS``, or of a family and any positive variable."""
    if name in LAWS:
        return LAWS[name]
    for family in sorted(FAMILIES, key=len, reverse=True):
        variable = name.removeprefix(f"{family}_")
        if variable != name and variable in VARIABLES and VARIABLES[variable].positive:
            return FAMILIES[family](variable)
    return None


def find(name: str | Law) -> Law:
    """A law by its name.

    Args:
        name: of ``LAWS``; a family and a variable, as ``power_offset_steps``; ``file.py:NAME``, which runs the file; or a
            ``Law``, which is returned.

    Raises:
        InputError: no law has the name (the message lists the laws), the file does not declare one, or a law of one's own
            has the name of another law, so that it would be taken for that.

    Example:
        >>> find("growth_batch_tokens").formula
        'y(B) = k B^p'
    """
    if isinstance(name, Law):
        return _distinct(name)
    if ".py:" in name:
        return _distinct(_from_file(name))
    law = shipped(name)
    if law is None:
        several = [law.name for law in LAWS.values() if law.name.rpartition("_")[0] not in FAMILIES]
        families = ", ".join(f"{family}_VARIABLE" for family in FAMILIES)
        raise InputError(
            f"no law is called '{name}'{nearest(name, LAWS) or '.'} Laws: {', '.join(several)}; of one variable (n, d, c, "
            f"steps, ...): {families}; or file.py:NAME for your own"
        )
    return law


def _distinct(law: Law) -> Law:
    """A law of one's own, unless it would be taken for another."""
    ours = shipped(law.name)
    if ours is not None and not law.fixed and replace(law, origin=None) != ours:
        raise InputError(f"law '{law.name}': isoflop has another law of that name: give yours a name of its own")
    return law


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
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        ) from error
    law = getattr(module, name, None)
    if not isinstance(law, Law):
        declared = [key for key, value in vars(module).items() if isinstance(value, Law)]
        raise InputError(
            f"{path}: '{name}' is no law{nearest(name, declared) or '.'} Laws: {', '.join(declared) or 'none'}"
        )
    return replace(law, origin=origin)
