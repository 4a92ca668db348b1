"""Uncertainty of the form: the law beside nested and rival ones, weighed by how each would have forecast its own runs.

For every compute below which enough runs lie, each form is fitted to the runs up to there and forecasts the others:
its score is the log density it gave them. A form whose errors in this roll-out grow with distance by more than its
constants and the runs' noise explain is widened by as much beyond the data.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammaln, softmax

from laws.budgets import budgets
from laws.fit import log_predictions, starting_points
from laws.forms import LAWS
from laws.law import Coordinates, Law
from laws.precision import float64
from laws.refit import Refits, refit, restriction
from laws.uncertainty import NORMAL, Fits, scatter, spread

DRAWS, LEAST, FULL = 96, 8, 0.3  # refits of a rival: at most, at least, and the weight from which it has them all
CUTS = 6  # of a roll-out, at most
SPARE = 2  # runs that a cut has beyond the constants of the largest form, at least
OWN = 0.5  # weight of the law itself before any roll-out; its rivals share the rest
EQUAL = 0.02  # share of the weights that is spread equally whatever the roll-outs say
PROMISING = 8  # starts of a rival that are followed
WIDE = 0.1  # Huber's threshold, in log loss, from which they are
GROWTHS = np.r_[0.0, np.geomspace(1e-4, 1.0, 33)]  # relative error per e-fold of distance
EVIDENCE = 1.0  # gain in score that growth must bring for its one constant (Akaike)
LOOSE = 1.0  # standard deviation of the optimiser's coordinates before any run was seen, relative to their size


@dataclass(frozen=True)
class Form:
    """A law, or a law with a restriction.

    Args:
        label: for people and ``fit.json``.
        law: a name of ``laws.forms.LAWS``.
        zero: constants held at zero.
        tie: constants held equal.
    """

    label: str
    law: str
    zero: tuple[str, ...] = ()
    tie: tuple[str, ...] = ()

    def restricted(self, law: Law, natural: Float[np.ndarray, "*batch params"]) -> Float[np.ndarray, "*batch params"]:
        """Constants brought to the restriction."""
        natural = np.array(natural, np.float64)
        index = [law.names.index(name) for name in self.tie]
        if index:
            natural[..., index] = natural[..., index].mean(axis=-1, keepdims=True)
        natural[..., [law.names.index(name) for name in self.zero]] = 0.0
        return natural


CHINCHILLA = Form("chinchilla", "chinchilla")
TIED = Form("chinchilla, alpha = beta", "chinchilla", tie=("alpha", "beta"))
FLOORLESS = Form("chinchilla, E = 0", "chinchilla", zero=("E",))
KAPLAN = Form("kaplan", "kaplan")
RIVALS: dict[str, tuple[Form, ...]] = {
    "chinchilla": (TIED, FLOORLESS, KAPLAN),
    "chinchilla_tied": (CHINCHILLA, FLOORLESS, KAPLAN),
    "kaplan": (CHINCHILLA, TIED, FLOORLESS),
    **{f"power_{r}": (Form(f"power_offset_{r}", f"power_offset_{r}"),) for r in "ndc"},
    **{f"power_offset_{r}": (Form(f"power_offset_{r}, E = 0", f"power_offset_{r}", zero=("E",)),) for r in "ndc"},
}


@dataclass(frozen=True)
class Member:
    """One form of an ensemble, fitted to tables that share a design.

    Args:
        label, law: the form.
        natural, draws: its constants, and those of its resamples.
        score: mean over the cuts of the log density that it gave the runs beyond; NaN without a cut.
        growth: relative error per e-fold of distance that its roll-outs showed beyond what is expected; 0 unless it
            gains more than ``EVIDENCE``.
        weight: of its forecasts in the mixture.
    """

    label: str
    law: Law
    natural: Float[np.ndarray, "tables params"]
    draws: Float[np.ndarray, "tables draws params"]
    score: Float[np.ndarray, " tables"]
    growth: Float[np.ndarray, " tables"]
    weight: Float[np.ndarray, " tables"]


def distance_role(law: Law, columns: dict[str, np.ndarray]) -> str:
    """The quantity along which a roll-out goes: compute, or what the law reads first."""
    return "c" if "c" in columns else law.columns[0]


def cuts(
    along: Float[np.ndarray, " rows"], run: np.ndarray, least: int, most: int = CUTS
) -> list[Bool[np.ndarray, " rows"]]:
    """The rows up to each cut, smallest first: those that leave enough runs below and some above, at most ``most``."""
    group = budgets(along)
    kept = [group <= last for last in range(group.max())]
    kept = [rows for rows in kept if len(np.unique(run[rows])) >= least]
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
    return [kept[i] for i in chosen]


def forecast_errors(
    seen: Float[np.ndarray, "tables rows params"],
    new: Float[np.ndarray, "tables more params"],
    deviation: Float[np.ndarray, " tables"],
    objective: str,
    delta: float,
    prior: Float[np.ndarray, "tables params params"],
) -> Float[np.ndarray, "tables more params"]:
    """What forecasts of log losses miss by because the constants are uncertain: W, whose W W^T is the covariance.

    The noise of the new runs, independent, comes on top.

    Args:
        seen, new: derivatives of the fitted and of the forecast log losses, in the optimiser's coordinates.
        deviation: standard deviation of a run's log loss.
        objective: a key of ``laws.solve.OBJECTIVES``.
        delta: Huber's threshold.
        prior: precision of the coordinates before any run was seen.
    """
    square, curve = spread(NORMAL, deviation, objective, delta)
    precision = (curve**2 / square)[:, None, None] * np.swapaxes(seen, 1, 2) @ seen
    root = np.linalg.cholesky(precision + prior)
    return np.swapaxes(np.linalg.solve(root, np.swapaxes(new, 1, 2)), 1, 2)


def _scores(inside, log_loss, predicted, slopes, distance, weight, objective, delta, prior):
    """Log densities of the runs beyond one cut, (tables, growths): multivariate t around the forecast."""
    freedom = max(int(inside.sum()) - slopes.shape[2], 1)
    error = (log_loss - predicted) * np.sqrt(weight)
    deviation = scatter(error[:, inside], slopes.shape[2], objective, delta) + 1e-12
    slopes = slopes * np.sqrt(weight)[:, None]
    unsure = forecast_errors(slopes[:, inside], slopes[:, ~inside], deviation, objective, delta, prior)
    missed, far = error[:, ~inside], np.broadcast_to(distance[~inside], error[:, ~inside].shape)
    # The covariance W W^T + noise^2 in the directions of W, few however many the runs, and beside them.
    directions, sizes, _ = np.linalg.svd(unsure, full_matrices=False)
    noise = (deviation**2)[:, None]
    pair = np.stack([missed, far], axis=2)
    along = np.swapaxes(directions, 1, 2) @ pair
    beside = pair - directions @ along
    inverse = np.swapaxes(along, 1, 2) @ (along / (noise + sizes**2)[..., None])
    inverse = inverse + np.swapaxes(beside, 1, 2) @ beside / noise[..., None]
    own, cross, reach = inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]
    size = missed.shape[1]
    volume = np.sum(np.log1p(sizes**2 / noise), axis=1) + size * np.log(noise[:, 0])
    added = GROWTHS[None] ** 2
    quadratic = own[:, None] - added * cross[:, None] ** 2 / (1 + added * reach[:, None])
    volume = volume[:, None] + np.log1p(added * reach[:, None])
    constant = gammaln((freedom + size) / 2) - gammaln(freedom / 2) - size / 2 * np.log(freedom * np.pi)
    return constant - 0.5 * volume - (freedom + size) / 2 * np.log1p(quadratic / freedom)


def below_cuts(fits: Fits, kept: list[Bool[np.ndarray, " rows"]], form: Form) -> Refits:
    """One form refitted to the rows up to each cut of each table, (tables x cuts) problems, with its slopes."""
    counts = np.tile(np.array(kept, np.float64), (len(fits.natural), 1))
    repeat = lambda values: np.repeat(values, len(kept), axis=0)
    return fits.refit(repeat(fits.log_loss), counts, repeat(fits.natural), hold=form.zero, tie=form.tie, slopes=True)


def loose(fits: Fits) -> Float[np.ndarray, "tables params params"]:
    """Precision of the optimiser's coordinates before any run was seen: none is far beyond its size."""
    with float64():
        free = np.asarray(Coordinates.of(fits.law, fits.columns).free(fits.natural))
    return np.eye(free.shape[1]) / (LOOSE * np.maximum(np.abs(free), 1.0))[:, None] ** 2


def roll_out(
    fits: Fits, kept: list[Bool[np.ndarray, " rows"]], form: Form
) -> tuple[Float[np.ndarray, " tables"], Float[np.ndarray, " tables"]]:
    """Score and growth of one form (see ``Member``).

    Args:
        fits: the form fitted to all the rows, from where the fits below each cut start.
        kept: the rows up to each cut.
        form: its restriction.
    """
    tables, rows = fits.log_loss.shape
    if not kept:
        return np.full(tables, np.nan), np.zeros(tables)
    found = below_cuts(fits, kept, form)
    assert found.slopes is not None
    moving, basis = restriction(fits.law, form.zero, form.tie)
    slopes = (found.slopes @ basis[:, moving]).reshape(tables, len(kept), rows, -1)
    predicted = log_predictions(fits.law, found.natural, fits.columns).reshape(tables, len(kept), rows)
    prior = loose(fits)[:, moving][:, :, moving]
    along = fits.columns[distance_role(fits.law, fits.columns)]
    scores = np.mean(
        [
            _scores(
                rows_in, fits.log_loss, predicted[:, k], slopes[:, k], np.log(along / along[rows_in].max()),
                fits.weight, fits.objective, fits.delta, prior,
            )
            for k, rows_in in enumerate(kept)
        ],
        axis=0,
    )  # fmt: skip
    scores = np.where(np.isfinite(scores), scores, -1e300)
    best = scores.argmax(axis=1)
    grown = scores.max(axis=1) - EVIDENCE > scores[:, 0]
    return scores[:, 0], np.where(grown, GROWTHS[best], 0.0)


def _start(form: Form, law: Law, fits: Fits) -> Float[np.ndarray, " params"]:
    """Constants near the best of a rival on the tables' mean: the most promising of its grid, followed."""
    log_loss = fits.log_loss.mean(axis=0)
    if law is fits.law:
        grid = form.restricted(law, fits.natural[:1])
    else:
        grid = form.restricted(law, starting_points(law, fits.columns, np.exp(log_loss), fits.weight))
    off = np.abs(log_predictions(law, grid, fits.columns) - log_loss).sum(axis=1)
    grid = grid[np.argsort(np.where(np.isfinite(off), off, np.inf))[:PROMISING]]
    for delta in (WIDE, fits.delta):
        found = refit(
            law, fits.columns, log_loss[None], fits.weight[None], grid, fits.objective, delta,
            hold=form.zero, tie=form.tie,
        )  # fmt: skip
        grid = found.natural
    return grid[np.argmin(np.where(np.isfinite(found.value), found.value, np.inf))]


def _fitted(form: Form, fits: Fits) -> Fits | None:
    """A rival fitted to the same tables; None if it reads a column that they have not."""
    law = fits.law if form.law == fits.law.name else LAWS[form.law]
    if not set(law.columns) <= set(fits.columns):
        return None
    start = np.tile(_start(form, law, fits), (len(fits.natural), 1))
    own = replace(fits, law=law, natural=start)
    found = own.refit(fits.log_loss, np.ones((1, len(fits.run))), start, hold=form.zero, tie=form.tie)
    return replace(own, natural=found.natural)


def _resampled(
    form: Form, own: Fits, drawn: Float[np.ndarray, "tables draws rows"], weight: Float[np.ndarray, " tables"]
) -> Float[np.ndarray, "tables draws params"]:
    """Constants of a rival, refitted to its own predictions with drawn errors: as many as its weight asks for, repeated."""
    count = drawn.shape[1]
    needed = np.clip(np.ceil(weight * count / FULL), LEAST, count).astype(int)
    table, draw = np.nonzero(np.arange(count) < needed[:, None])
    start = own.natural[table]
    found = own.refit(
        own.predicted[table] + drawn[table, draw], np.ones((1, drawn.shape[2])), start, hold=form.zero, tie=form.tie
    )
    first = np.r_[0, np.cumsum(needed)[:-1]]
    natural = np.where(np.isfinite(found.natural), found.natural, start)
    return natural[first[:, None] + np.arange(count) % needed[:, None]]


def ensemble(
    fits: Fits,
    draws: Float[np.ndarray, "tables draws params"],
    drawn: Float[np.ndarray, "tables draws rows"],
) -> list[Member]:
    """The law and its rivals, weighed; the law comes first.

    Args:
        fits: the law's fits.
        draws: its resampled constants.
        drawn: errors as repetitions of the runs might have had them, with which the rivals are resampled.
    """
    known = () if fits.law.fixed or fits.law.origin else RIVALS.get(fits.law.name, ())
    rivals = [(form, own) for form in known if (own := _fitted(form, fits)) is not None]
    fitted = [(Form(fits.law.name, fits.law.name), fits), *rivals]
    least = max(int(restriction(own.law, form.zero, form.tie)[0].sum()) for form, own in fitted) + SPARE
    kept = cuts(fits.columns[distance_role(fits.law, fits.columns)], fits.run, least)
    rolled = [roll_out(own, kept, form) for form, own in fitted]
    scores = np.stack([score for score, _ in rolled], axis=1)
    before = np.r_[OWN, np.full(len(rivals), (1 - OWN) / max(len(rivals), 1))]
    share = softmax(np.log(before) + np.where(np.isfinite(scores), scores, 0.0), axis=1)
    weights = (1 - EQUAL) * share + EQUAL / len(fitted)
    size = [np.sqrt(np.mean((own.log_loss - own.predicted) ** 2, axis=1)) for _, own in fitted]
    worse = [error / np.maximum(size[0], 1e-300) for error in size]
    return [
        Member(
            label=form.label,
            law=own.law,
            natural=own.natural,
            draws=draws if k == 0 else _resampled(form, own, drawn[:, :DRAWS] * worse[k][:, None, None], weights[:, k]),
            score=scores[:, k],
            growth=rolled[k][1],
            weight=weights[:, k],
        )
        for k, (form, own) in enumerate(fitted)
    ]


def pooled_growth(members: list[Member], table: int = 0) -> float:
    """Growth of the mixture: of all forms, by their weights."""
    return float(sum(member.weight[table] * member.growth[table] for member in members))
