"""Data transferred: measured between runs from scratch and pre-trained ones, and by the law with its interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from laws.inference.noise import interval
from laws.model.forms.transfer import TRANSFER, TRANSFER_JOINT
from laws.plotting.missing import MissingFigureData
from laws.plotting.plot_data.runs import predicted
from laws.results.results import FitResult

REACH = 1.2  # factor by which curves go on beyond the runs
TRANSFER_POINTS = 60  # of a curve


def require_transfer(fitted: FitResult) -> None:
    """Refuses a fit that is not of the joint law of transfer.

    Raises:
        MissingFigureData: the law is another, or one of its constants is held.
    """
    if fitted.report.law != TRANSFER_JOINT.name or fitted.law.fixed:
        raise MissingFigureData(f"data transferred is a result of law '{TRANSFER_JOINT.name}' with no constant held")


def tokens_transferred(rows: dict[str, Float[np.ndarray, " rows"]]) -> Float[np.ndarray, " rows"]:
    """The data transferred to each run, by no law: the tokens a run from scratch needs for its loss, less its own.

    Between the runs from scratch of the same size, the logarithm of the loss is taken as straight in that of the data.

    Args:
        rows: ``n`` (parameters), ``d`` (tokens), ``pretrained`` (1, else 0) and ``loss``.

    Returns:
        D_T in tokens; NaN for runs from scratch, and where none of the size from scratch is as good, or as bad.
    """
    transferred = np.full(len(rows["n"]), np.nan)
    for n in np.unique(rows["n"]):
        scratch, tuned = ((rows["n"] == n) & (rows["pretrained"] == p) for p in (0, 1))
        if scratch.sum() > 1:
            order = np.argsort(-rows["loss"][scratch])
            losses, data = (np.log(rows[key][scratch][order]) for key in ("loss", "d"))
            needed = np.interp(-np.log(rows["loss"][tuned]), -losses, data, left=np.nan, right=np.nan)
            transferred[tuned] = np.exp(needed) - rows["d"][tuned]
    return transferred


@dataclass(frozen=True)
class TransferCurve:
    """A law of transfer along the data of one size.

    Args:
        n: parameters.
        d: tokens.
        loss: predicted from scratch (0) and from a pre-trained model (1).
        transferred, low, high: data transferred with the interval of the law, in tokens; the ends are NaN without
            resamples.
    """

    n: float
    d: Float[np.ndarray, " points"]
    loss: dict[int, Float[np.ndarray, " points"]]
    transferred: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


def transfer_curves(fitted: FitResult) -> list[TransferCurve]:
    """Loss and data transferred by the law along the data of every fitted size, from the smallest.

    Raises:
        MissingFigureData: the fit is not of the joint law of transfer.
    """
    require_transfer(fitted)
    runs = fitted.data
    grid = np.geomspace(runs["d"].min() / REACH, runs["d"].max() * REACH, TRANSFER_POINTS)
    curves = []
    for n in np.unique(runs["n"].to_numpy(float)):
        columns = {"n": np.full(len(grid), n), "d": grid}
        loss = {p: predicted(fitted, columns | {"pretrained": np.full(len(grid), float(p))}) for p in (0, 1)}
        curves.append(TransferCurve(float(n), grid, loss, *_transferred_band(fitted, float(n), grid)))
    return curves


def _transferred_band(
    fitted: FitResult, n: float, tokens: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, " points"], ...]:
    """The law's data transferred to one size, and the ends of its interval."""
    columns = {"n": n, "finetune_tokens": tokens}
    value = lambda constants: np.asarray(TRANSFER.value(fitted.law.constants(constants), columns))
    draws = fitted.predictor.draws
    low, high = np.full((2, len(tokens)), np.nan)
    if len(draws):
        low, high = interval(np.stack([value(draw) for draw in draws]), fitted.predictor.level)
    return value(fitted.predictor.constants), low, high
