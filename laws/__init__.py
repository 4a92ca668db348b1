"""From tables of runs to scaling laws: ``laws.load(table).fit("chinchilla")``, ``.predict``, ``.plot``.

Nothing heavy is imported until it is used, so ``import laws`` starts no JAX device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laws.blind import freeze, score
    from laws.envelope import load_curves
    from laws.errors import BadTable, FitFailed, NotBlind
    from laws.fitted import Fitted, read_fit
    from laws.forms import LAWS
    from laws.law import Law, Param
    from laws.study import analyse
    from laws.table import Table, load

HOMES = {
    "load": "laws.table",
    "Table": "laws.table",
    "load_curves": "laws.envelope",
    "analyse": "laws.study",
    "read_fit": "laws.fitted",
    "Fitted": "laws.fitted",
    "freeze": "laws.blind",
    "score": "laws.blind",
    "LAWS": "laws.forms",
    "Law": "laws.law",
    "Param": "laws.law",
    "BadTable": "laws.errors",
    "FitFailed": "laws.errors",
    "NotBlind": "laws.errors",
}
__all__ = [
    "LAWS",
    "BadTable",
    "FitFailed",
    "Fitted",
    "Law",
    "NotBlind",
    "Param",
    "Table",
    "analyse",
    "freeze",
    "load",
    "load_curves",
    "read_fit",
    "score",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'laws' has no attribute '{name}'")
    return getattr(import_module(HOMES[name]), name)
