"""Laws of whole learning curves under a learning-rate schedule.

A schedule enters by two areas, the columns of ``annealing``, or as a whole, in laws built for given schedules.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from laws.base.array_math import maximum, namespace, power
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param

MOMENTUM = 0.999  # of Tissue et al.; their section on it finds 0.99 to 0.9995 alike
EVERY = 64  # steps of a decay that are taken together; to within 6e-4 of the loss on the published schedules


def schedule_areas(
    rates: Float[np.ndarray, " steps"], momentum: float = MOMENTUM
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Summed learning rate S_1 and annealed area S_2 after every step: the columns that the law ``annealing`` reads.

    Args:
        rates: learning rate of every step from the first, warm-up included if it is to count.
        momentum: by which a drop of the rate is remembered from one step to the next.

    Returns:
        ``rate_area`` and ``annealed_area``.

    Source:
        Tissue et al. 2024, arXiv 2408.11029, equation 1.

    Example:
        >>> rate_area, annealed_area = schedule_areas(np.array([1.0, 1.0, 0.5, 0.0]), momentum=0.5)
        >>> rate_area.tolist(), annealed_area.tolist()
        ([1.0, 2.0, 2.5, 2.5], [0.0, 0.0, 0.5, 1.25])
    """
    from scipy.signal import lfilter

    drops = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    return np.cumsum(rates), np.cumsum(lfilter([1.0], [1.0, -momentum], drops))


ANNEALING = Law(
    name="annealing",
    formula="L = L0 + A / S1^alpha - C S2",
    source="Tissue et al. 2024, arXiv 2408.11029, equation 1; S1 and S2 by laws.schedule_areas",
    columns=("rate_area", "annealed_area"),
    params=(
        Param("L0", "irreducible loss"),
        Param("A", "weight of the summed rate"),
        Param("C", "what annealing gains"),
        exponent("alpha", "exponent of the summed rate", 0.2, 0.4, 0.6, 0.8),
    ),
    value=lambda p, x: p["L0"] + p["A"] * power(x["rate_area"], -p["alpha"]) - p["C"] * x["annealed_area"],
    linear=("L0", "A", "C"),
)


def _nodes(rates: Float[np.ndarray, " steps"], every: int) -> Float[np.ndarray, "4 nodes"]:
    """Where a schedule changes, runs of changes of one sign taken together ``every`` steps.

    Returns:
        the summed drop of each node, and means of its rate, of the rates summed before it, and of its step.
    """
    step = 1 + np.flatnonzero(np.diff(rates))
    drop, before = rates[step - 1] - rates[step], np.cumsum(rates)[step - 1]
    fresh = np.ones(len(step), bool)  # a constant schedule has no node at all
    fresh[1:] = (np.diff(step) > 1) | (np.diff(np.sign(drop)) != 0)
    _, node = np.unique(np.stack([np.cumsum(fresh), step // every]), axis=1, return_inverse=True)
    node = node.ravel()
    counts = np.bincount(node)
    return np.stack([np.bincount(node, drop), *(np.bincount(node, v) / counts for v in (rates[step], before, step))])


def multi_power(schedules: Sequence[Float[np.ndarray, " steps"]], every: int = EVERY) -> Law:
    """The multi-power law of the losses along given learning-rate schedules.

    It reads ``schedule_index``, which of the schedules a row follows (from 0), and ``steps``. Warm-up belongs to the
    schedules: it counts among the summed rates, and its rises as drops of the other sign.

    Args:
        schedules: learning rate of every step from step 0, each.
        every: steps of a decay that are taken together; 1 is exact.

    Returns:
        the law, to be fitted to rows of these schedules.

    Source:
        Luo et al. 2025, arXiv 2503.12811, equation 2 and their code.

    Example:
        >>> law = multi_power([np.full(1000, 1e-3), np.linspace(1e-3, 0, 1000)])
        >>> law.columns, law.linear
        (('schedule_index', 'steps'), ('L0', 'A', 'B'))
    """
    nodes = [_nodes(np.asarray(rates, np.float64), every) for rates in schedules]
    width, longest = max(node.shape[1] for node in nodes), max(map(len, schedules))
    # Padding: a node that drops nothing, at a rate of one.
    drop, rate, before, step = np.stack(
        [np.pad(n, ((0, 0), (0, width - n.shape[1]))) + np.array([[0], [1], [0], [0]]) * (np.arange(width) >= n.shape[1])
         for n in nodes], axis=1,
    )  # fmt: skip
    summed = np.stack([np.pad(np.cumsum(rates), (0, longest - len(rates)), mode="edge") for rates in schedules])

    def value(p, x):
        which, step_index = (_index(x[variable]) for variable in ("schedule_index", "steps"))
        pick = namespace(*p.values(), which, step_index).asarray
        total = pick(summed)[which, step_index]
        alpha, b, c, beta, gamma = (p[name] for name in ("alpha", "B", "C", "beta", "gamma"))
        since = maximum(total[..., None] - pick(before)[which], 0.0) * (pick(step)[which] <= step_index[..., None])
        each = lambda constant: constant[..., None] if np.ndim(constant) else constant
        fallen = 1 - power(1 + each(c) * power(pick(rate)[which], -each(gamma)) * since, -each(beta))
        return p["L0"] + p["A"] * power(total, -alpha) - b * (pick(drop)[which] * fallen).sum(-1)

    return Law(
        name="multi_power",
        formula="L(t) = L0 + A / S1^alpha - B sum_k (eta_(k-1) - eta_k) (1 - (1 + C eta_k^-gamma S_k)^-beta)",
        source="Luo et al. 2025, arXiv 2503.12811",
        columns=("schedule_index", "steps"),
        params=(
            Param("L0", "irreducible loss"),
            Param("A", "weight of the summed rate"),
            Param("B", "what a drop of the rate gains"),
            exponent("alpha", "exponent of the summed rate", 0.3, 0.5, 0.7),
            Param("C", "scale of the response", 1e-3, 1e3, starts=(0.5, 2.0)),
            Param("beta", "exponent of the response", 2e-2, 3.0, starts=(0.3, 0.6)),
            exponent("gamma", "exponent of the rate", 0.3, 0.6, low=0.0, high=2.0),
        ),
        value=value,
        linear=("L0", "A", "B"),
        terms_per_row=max(width, 1),
    )


def _index(values):
    """Whole numbers from a column of floats."""
    return namespace(values).asarray(values).astype(int)


LAWS = (ANNEALING,)
