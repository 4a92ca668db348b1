from .api import FitResult, Runs, load, read_fit
from .approaches.isoflop_profiles import isoflop_profiles
from .base.errors import FitFailed, InputError, NotPreregistered
from .base.uncertainty_config import UncertaintyConfig
from .data.curves import load_curves
from .forecasting.prediction import Forecast
from .model.forms import LAWS
from .model.forms.schedule import multi_power, schedule_areas
from .model.law import Law, Param
from .plotting.figures import plot_result
from .uses.calibration import Calibration, calibration
from .uses.collapse import Collapse, collapse
from .uses.compute_multiplier import Comparison, compare
from .uses.floor_profile import floor_profile
from .uses.inference_cost import CheapestModel, cheapest_model
from .uses.mixtures import BestMixture, best_mixture
from .uses.preregistration import FrozenPrediction, freeze, read_frozen
from .uses.propose import Proposal, propose
from .uses.score_log import ScoreLog, append_score
from .uses.scoring import Score, score
from .uses.sensitivity import sensitivity
from .uses.two_stage import predict_downstream

__all__ = [
    "LAWS",
    "BestMixture",
    "Calibration",
    "CheapestModel",
    "Collapse",
    "Comparison",
    "FitFailed",
    "FitResult",
    "Forecast",
    "FrozenPrediction",
    "InputError",
    "Law",
    "NotPreregistered",
    "Param",
    "Proposal",
    "Runs",
    "Score",
    "ScoreLog",
    "UncertaintyConfig",
    "append_score",
    "best_mixture",
    "calibration",
    "cheapest_model",
    "collapse",
    "compare",
    "floor_profile",
    "freeze",
    "isoflop_profiles",
    "load",
    "load_curves",
    "multi_power",
    "plot_result",
    "predict_downstream",
    "propose",
    "read_fit",
    "read_frozen",
    "schedule_areas",
    "score",
    "sensitivity",
]
