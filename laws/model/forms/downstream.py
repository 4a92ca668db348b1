"""From the loss to what is measured downstream: error and accuracy on tasks."""

from laws.base.array_math import exp
from laws.model.forms.start_values import exponent, of_least
from laws.model.law import Law, Param

ERROR = Law(
    name="downstream_error",
    formula="error(L) = eps (1 - exp(-gamma (L - L0)))",
    source="Gadre et al. 2024, arXiv 2403.08540, equation 5, eps - k exp(-gamma L) with k = eps exp(gamma L0)",
    columns=("upstream_loss",),
    params=(
        Param("eps", "error of a guess"),
        exponent("gamma", "how fast error follows loss", 0.5, 1.0, 2.0, 4.0, low=1e-2, high=50.0),
        Param("L0", "loss at which no error is left", 1e-3, 1e3, starts=of_least("upstream_loss", 0.2, 0.5, 0.8, 0.95)),
    ),
    value=lambda p, x: p["eps"] * (1 - exp(-p["gamma"] * (x["upstream_loss"] - p["L0"]))),
    linear=("eps",),
    observable="error",
)

ACCURACY = Law(
    name="task_accuracy",
    formula="accuracy(L) = floor + amplitude / (1 + exp(k (L - L0)))",
    source="Bhagia et al. 2024, arXiv 2412.04403, equation 2 with a = -amplitude, b = floor + amplitude; its L is the "
    "task loss, by chinchilla",
    columns=("upstream_loss",),
    params=(
        Param("floor", "accuracy of a guess"),
        Param("amplitude", "what can be gained over it"),
        Param("k", "steepness", 1e-2, 200.0, starts=(1.0, 3.0, 7.0, 13.0)),
        Param("L0", "loss half way", 1e-2, 1e2, starts=of_least("upstream_loss", 0.8, 1.1, 1.4, 2.0)),
    ),
    value=lambda p, x: p["floor"] + p["amplitude"] / (1 + exp(p["k"] * (x["upstream_loss"] - p["L0"]))),
    linear=("floor", "amplitude"),
    observable="accuracy",
)

LAWS = (ERROR, ACCURACY)
