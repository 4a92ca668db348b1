"""Posterior of a family of functions under a prior, for many problems at once: modes by scoring, draws by importance.

Errors of log loss have Student's t distribution with ``NU`` degrees of freedom and one scale. Rows have weights, the power
to which each one's density is taken: a row of weight zero is left out, and weights that fall with the distance from the
largest compute make the fit a local one there (local likelihood: Tibshirani and Hastie 1987, JASA 82).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln

from laws.forecasting.family import Family, Frame, Inputs, Points

NU = 4.0  # degrees of freedom of the errors
SCALE = -1  # the coordinate of the scale, in every family
LOG_CONSTANT = float(gammaln((NU + 1) / 2) - gammaln(NU / 2) - 0.5 * np.log(NU * np.pi))
CELLS = 400_000  # predictions that are made together: problems times samples times rows
STEPS = 60  # of the search for a mode, at most
GAIN = 1e-9  # of the log density, from which a step is the last
FIRST_DAMPING, LARGEST_DAMPING = 1e-2, 1e8
DAMPED_LESS, DAMPED_MORE = 0.2, 6.0
PRIOR_NU = 8.0  # of the priors, one less than the sources of the public one: runs that contradict a prior overrule it
WIDEST = 3.0  # standard deviation of the first proposals in any direction, at most
PROPOSAL_NU = 5.0  # degrees of freedom of the proposals: heavier tails than the posterior's
ROUNDS = 2  # of proposals that adapt to the draws before the last
LARGEST_SHARE = 0.02  # of one draw in all: importance weights are truncated (Ionides 2008, JCGS 17)
MOVES, MOVED_ROWS = (4, 60), 1500  # steps of the Markov chains: fewer where there are many rows, and tails are thin
STRETCH = 2.0  # most by which a step stretches or shrinks the distance to another draw
INFLATED = 1.1  # variance of an adapted proposal over that of the draws
DIFFERENCE = 1e-5  # of coordinates, in derivatives of their transformation


class Prior(NamedTuple):
    """Independent distributions of the coordinates, Student's t with ``PRIOR_NU`` degrees of freedom.

    Args:
        mean, deviation: location and scale of each; a scale of zero holds the coordinate.
    """

    mean: Float[np.ndarray, " coordinates"]
    deviation: Float[np.ndarray, " coordinates"]


class Problems(NamedTuple):
    """Fits that share their rows and differ in losses, weights and priors.

    Args:
        family: whose functions are fitted.
        frame: of the problems.
        inputs: logs of the variables of the rows.
        log_loss: measured log losses.
        weight: of the rows in each problem.
        mean, deviation: of the priors.
    """

    family: Family
    frame: Frame
    inputs: Inputs
    log_loss: Float[np.ndarray, "problems rows"]
    weight: Float[np.ndarray, "problems rows"]
    mean: Float[np.ndarray, "problems coordinates"]
    deviation: Float[np.ndarray, "problems coordinates"]

    @classmethod
    def of(cls, family: Family, inputs: Inputs, log_loss, weight, priors: list[Prior]) -> "Problems":
        """Problems centred at their own rows.

        Args:
            family: whose functions are fitted.
            inputs: logs of the variables of the rows.
            log_loss: log losses, (problems, rows).
            weight: of the rows, likewise.
            priors: one a problem.
        """
        mean, deviation = (np.array([getattr(prior, name) for prior in priors]) for name in Prior._fields)
        return cls(family, Frame.of(inputs, log_loss, weight), inputs, log_loss, weight, mean, deviation)

    def take(self, which: np.ndarray) -> "Problems":
        """Some of them, by number or mask."""
        return Problems(
            self.family, self.frame.take(which), self.inputs, self.log_loss[which], self.weight[which], self.mean[which],
            self.deviation[which],
        )  # fmt: skip

    @property
    def free(self) -> np.ndarray:
        """Which coordinates vary: (problems, coordinates)."""
        return self.deviation > 0


def _standardised(problems: Problems, points: Points) -> Points:
    """Distance of coordinates from the prior's mean in its deviations; zero where they are held."""
    free = problems.free[:, None]
    return np.where(free, (points - problems.mean[:, None]) / np.where(free, problems.deviation[:, None], 1.0), 0.0)


def log_density(problems: Problems, points: Points) -> Float[np.ndarray, "problems samples"]:
    """Log density of the posterior, without its normalisation.

    Args:
        problems: the problems.
        points: coordinates, some samples a problem.
    """
    count, samples = problems.log_loss.shape[1], points.shape[1]
    size = max(1, CELLS // (count * len(points)))
    parts = [_log_density(problems, points[:, start : start + size]) for start in range(0, samples, size)]
    return np.concatenate(parts, axis=1)


def _log_density(problems: Problems, points: Points) -> Float[np.ndarray, "problems samples"]:
    with np.errstate(all="ignore"):
        error = problems.log_loss[:, None] - problems.family.log_losses(problems.frame, points, problems.inputs)
        log_scale = points[..., SCALE]
        tails = np.log1p((error * np.exp(-log_scale)[..., None]) ** 2 / NU)
        of_rows = -log_scale * problems.weight.sum(axis=1)[:, None] - (NU + 1) / 2 * np.einsum(
            "psr,pr->ps", tails, problems.weight
        )
        density = of_rows - (PRIOR_NU + 1) / 2 * np.sum(
            np.log1p(_standardised(problems, points) ** 2 / PRIOR_NU), axis=-1
        )
    return np.where(np.isfinite(density), density, -np.inf)


def _sampled_density(problems: Problems, sampled: Points) -> Float[np.ndarray, "problems samples"]:
    """Log density of the posterior of the coordinates in which draws are proposed.

    Args:
        problems: the problems.
        sampled: those coordinates.
    """
    with np.errstate(all="ignore"):
        points, log_volume = problems.family.from_sampling(sampled)
        density = log_density(problems, points) + log_volume
    return np.where(np.isfinite(density), density, -np.inf)


def _scoring(problems: Problems, points: Float[np.ndarray, "problems coordinates"]):
    """Gradients of the log density, and its expected curvature (Fisher information of the rows, and of the prior)."""
    every = points[:, None]
    error = problems.log_loss - problems.family.log_losses(problems.frame, every, problems.inputs)[:, 0]
    slope = problems.family.slopes(problems.frame, every, problems.inputs)[:, 0]
    variance = np.exp(2 * points[:, SCALE])[:, None]
    robust = (
        problems.weight * (NU + 1) / (NU * variance + error**2)
    )  # weight of the row in least squares, over variance
    gradient = np.einsum("pr,prk->pk", robust * error, slope)
    curvature = np.einsum("prk,pr,prl->pkl", slope, robust, slope)
    total = problems.weight.sum(axis=1)
    gradient[:, SCALE] = np.sum(robust * error**2, axis=1) - total
    curvature[:, SCALE, SCALE] += total * 2 * NU / (NU + 3)
    free = problems.free
    off = points - problems.mean
    precision = np.where(free, (PRIOR_NU + 1) / (PRIOR_NU * np.where(free, problems.deviation, 1.0) ** 2 + off**2), 0.0)
    gradient = np.where(free, gradient - precision * off, 0.0)
    both = free[:, :, None] & free[:, None, :]
    curvature = np.where(both, curvature, 0.0) + np.einsum(
        "pk,kl->pkl", np.where(free, precision, 1.0), np.eye(points.shape[1])
    )
    return gradient, curvature


class Mode(NamedTuple):
    """Where the posterior density of each problem is highest.

    Args:
        point: coordinates.
        log_density: there.
        centre: the same but for the scale, which is that of the marginal density: at the mode the coordinates have taken
            up their share of the errors.
        curvature: expected curvature of the log density at the centre; the identity where a coordinate is held.
    """

    point: Float[np.ndarray, "problems coordinates"]
    log_density: Float[np.ndarray, " problems"]
    centre: Float[np.ndarray, "problems coordinates"]
    curvature: Float[np.ndarray, "problems coordinates coordinates"]


def modes(problems: Problems, starts: Float[np.ndarray, "problems coordinates"]) -> Mode:
    """The mode near each start, by Fisher scoring with damping.

    Args:
        problems: the problems.
        starts: coordinates to start from.
    """
    point = np.where(problems.free, starts, problems.mean)
    value = log_density(problems, point[:, None])[:, 0]
    damping = np.full(len(point), FIRST_DAMPING)
    active = np.isfinite(value)
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            i = np.flatnonzero(active)
            if not len(i):
                break
            some = problems.take(i)
            gradient, curvature = _scoring(some, point[i])
            diagonal = np.einsum("pkk->pk", curvature)
            damped = curvature + np.einsum("pk,kl->pkl", damping[i, None] * diagonal, np.eye(point.shape[1]))
            step = np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
            step = np.clip(step, -1.5, 1.5)
            tried = point[i] + step
            new = log_density(some, tried[:, None])[:, 0]
            better = new > value[i]
            expected = 0.5 * np.einsum("pk,pk->p", gradient, step)
            point[i[better]], value[i[better]] = tried[better], new[better]
            damping[i] = np.where(better, np.maximum(damping[i] * DAMPED_LESS, 1e-9), damping[i] * DAMPED_MORE)
            active[i] = (expected > GAIN) & (damping[i] < LARGEST_DAMPING)
        centre, rows = point.copy(), problems.weight.sum(axis=1)
        centre[:, SCALE] += 0.5 * np.log(np.maximum(rows, 1.0) / np.maximum(rows - problems.free.sum(axis=1) + 1, 1.0))
        curvature = _scoring(problems, centre)[1]
    return Mode(point, value, centre, curvature)


def _proposal(problems: Problems, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
    """Centre and root of the covariance of the first proposals, in the coordinates in which draws are proposed.

    Args:
        problems: the problems.
        mode: of each.

    Raises:
        ValueError: a coordinate is held that these do not leave as it is.
    """
    family, free, width = problems.family, problems.free, mode.point.shape[1]
    centre = family.to_sampling(mode.centre)
    if not np.allclose(centre[~free], mode.centre[~free]):
        raise ValueError("a prior holds a coordinate that is not one of those in which draws are proposed")
    shift = DIFFERENCE * np.eye(width)
    ahead, behind = (family.from_sampling(centre[:, None] + sign * shift)[0] for sign in (1, -1))
    derivative = (ahead - behind) / (2 * DIFFERENCE)  # (problems, sampled coordinates, coordinates)
    curvature = derivative @ mode.curvature @ np.swapaxes(derivative, 1, 2)
    both = free[:, :, None] & free[:, None, :]
    curvatures, directions = np.linalg.eigh(np.where(both, curvature, np.eye(width)))
    # The symmetric root: unlike the eigenvectors it leaves a held coordinate apart from the others.
    return centre, directions / np.sqrt(np.maximum(curvatures, WIDEST**-2))[:, None] @ np.swapaxes(directions, 1, 2)


def sample(problems: Problems, mode: Mode, count: int, seed: int, rounds: int = ROUNDS) -> Points:
    """Draws of every problem's posterior: importance sampling with proposals that adapt, then steps of a Markov chain.

    Args:
        problems: the problems.
        mode: of each.
        count: draws of each.
        seed: of the draws, the same for every problem.
        rounds: of proposals before the last.

    Source:
        Bugallo et al. 2017, IEEE Signal Processing Magazine 34 (adaptive importance sampling).
    """
    rng = np.random.default_rng(seed)
    tables, width = mode.point.shape
    free = problems.free
    keep = np.where(free, 1.0, 0.0)
    centre, root = _proposal(problems, mode)
    for left in range(rounds, -1, -1):
        standard = rng.standard_normal((1, count, width)) * np.sqrt(
            PROPOSAL_NU / rng.chisquare(PROPOSAL_NU, (1, count, 1))
        )
        step = np.broadcast_to(standard, (tables, count, width)) * keep[:, None]
        points = centre[:, None] + np.einsum("pkl,psl->psk", root, step)
        points = np.where(free[:, None], points, problems.mean[:, None])
        dimensions = free.sum(axis=1)[:, None]
        proposed = -(PROPOSAL_NU + dimensions) / 2 * np.log1p(np.sum(step**2, axis=2) / PROPOSAL_NU)
        share = _shares(_sampled_density(problems, points) - proposed)
        if left:
            centre = np.einsum("ps,psk->pk", share, points)
            off = points - centre[:, None]
            spread = np.einsum("ps,psk,psl->pkl", share, off, off) * INFLATED
            hold = np.einsum("pk,kl->pkl", np.where(free, 0.0, 1.0), np.eye(width))
            root = np.linalg.cholesky(spread + hold + 1e-9 * np.eye(width))
    chosen = rng.permutation(_systematic(share, rng.uniform()), axis=1)
    particles = np.take_along_axis(points, chosen[:, :, None], axis=1)
    moved = _moved(problems, particles, int(np.clip(MOVED_ROWS / problems.log_loss.shape[1], *MOVES)), rng)
    return problems.family.from_sampling(moved)[0]


def _moved(problems: Problems, points: Points, steps: int, rng: np.random.Generator) -> Points:
    """Draws after some steps of a Markov chain each: stretch moves, one half of the draws along lines through the other.

    They spread copies of one draw, and reach curved tails that proposals miss.

    Args:
        problems: the problems.
        points: where the chains begin, in the coordinates in which draws are proposed.
        steps: of each chain.
        rng: of the moves, the same for every problem.

    Source:
        Goodman and Weare 2010, Communications in Applied Mathematics and Computational Science 5.
    """
    half = points.shape[1] // 2
    dimensions = problems.free.sum(axis=1)[:, None]
    parts = [points[:, :half].copy(), points[:, half : 2 * half].copy()]
    density = [_sampled_density(problems, part) for part in parts]
    for step in range(2 * steps):
        this, other = step % 2, 1 - step % 2
        partner = parts[other][:, rng.permutation(half)]
        stretch = (1 + (STRETCH - 1) * rng.uniform(size=(1, half))) ** 2 / STRETCH
        tried = partner + stretch[..., None] * (parts[this] - partner)
        new = _sampled_density(problems, tried)
        with np.errstate(invalid="ignore"):
            gain = (dimensions - 1) * np.log(stretch) + new - density[this]
        accepted = np.log(rng.uniform(size=(1, half))) < gain
        parts[this] = np.where(accepted[..., None], tried, parts[this])
        density[this] = np.where(accepted, new, density[this])
    return np.concatenate([*parts, points[:, 2 * half :]], axis=1)


def _shares(log_weight: Float[np.ndarray, "problems samples"]) -> Float[np.ndarray, "problems samples"]:
    """Importance weights that add up to one, none above ``LARGEST_SHARE`` of the raw sum."""
    highest = log_weight.max(axis=1, keepdims=True)
    weight = np.exp(np.where(np.isfinite(highest), log_weight - highest, 0.0))
    weight = np.minimum(weight, LARGEST_SHARE * weight.sum(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def _systematic(share: Float[np.ndarray, "problems samples"], offset: float) -> np.ndarray:
    """Systematic resampling: numbers of as many draws as there are, each as often as its share asks for."""
    count = share.shape[1]
    places = (np.arange(count) + offset) / count
    ends = np.cumsum(share, axis=1)
    return np.stack([np.minimum(np.searchsorted(row, places), count - 1) for row in ends])


def log_predictive(
    log_loss: Float[np.ndarray, "problems samples rows"],
    log_scale: Float[np.ndarray, "problems samples"],
    measured: Float[np.ndarray, "problems rows"],
) -> Float[np.ndarray, "problems rows"]:
    """Log density that the draws of each problem give to measured log losses, each row by itself.

    Args:
        log_loss: predicted log losses of every draw.
        log_scale: log scale of the errors in every draw.
        measured: log losses.
    """
    error = (measured[:, None] - log_loss) * np.exp(-log_scale)[..., None]
    density = LOG_CONSTANT - log_scale[..., None] - (NU + 1) / 2 * np.log1p(error**2 / NU)
    largest = density.max(axis=1)
    return largest + np.log(np.mean(np.exp(density - largest[:, None]), axis=1))
