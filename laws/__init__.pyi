from .api import FitResult, Runs, load, read_fit
from .approaches.isoflop_profiles import isoflop_profiles
from .base.errors import FitFailed, InputError, NotPreregistered
from .base.uncertainty_config import UncertaintyConfig
from .data.curves import load_curves
from .model.forms import LAWS
from .model.forms.schedule import multi_power, schedule_areas
from .model.law import Law, Param
from .uses.collapse import collapse
from .uses.compute_multiplier import compare
from .uses.inference_cost import cheapest_model
from .uses.preregistration import freeze
from .uses.propose import propose
from .uses.scoring import score
from .uses.sensitivity import sensitivity
from .uses.two_stage import predict_downstream

__all__ = [
    "LAWS",
    "FitFailed",
    "FitResult",
    "InputError",
    "Law",
    "NotPreregistered",
    "Param",
    "Runs",
    "UncertaintyConfig",
    "cheapest_model",
    "collapse",
    "compare",
    "freeze",
    "isoflop_profiles",
    "load",
    "load_curves",
    "multi_power",
    "predict_downstream",
    "propose",
    "read_fit",
    "schedule_areas",
    "score",
    "sensitivity",
]
