from .api import FitResult, Runs, load, read_fit
from .base.errors import FitFailed, InputError, NotPreregistered
from .data.curves import load_curves
from .model.forms import LAWS
from .model.law import Law, Param
from .uses.preregistration import freeze, score

__all__ = [
    "LAWS",
    "FitFailed",
    "FitResult",
    "InputError",
    "Law",
    "NotPreregistered",
    "Param",
    "Runs",
    "freeze",
    "load",
    "load_curves",
    "read_fit",
    "score",
]
