"""Which rows of one point (equal N, D and C, and what else a law reads) are fitted: the best setting, or the best row."""

import numpy as np
from jaxtyping import Bool, Float, Int


def best_settings(
    point: Int[np.ndarray, " rows"], setting: Int[np.ndarray, " rows"], rank: Float[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """The rows of the best setting of each point, by the mean rank of its rows, so that seeds count together.

    Args:
        point: number of the point of each row.
        setting: number of the point and setting of each row.
        rank: the lower the better.
    """
    mean = np.bincount(setting, rank) / np.bincount(setting)
    lowest = np.full(point.max() + 1, np.inf)
    np.minimum.at(lowest, point, mean[setting])
    tied = mean[setting] <= lowest[point]
    # Of settings that tie, the one of the first row.
    first = np.full(point.max() + 1, setting.max() + 1)
    order = np.flatnonzero(tied)[::-1]
    first[point[order]] = setting[order]
    return tied & (setting == first[point])


def best_rows(point: Int[np.ndarray, " rows"], rank: Float[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """The first of the rows with the lowest rank of each point."""
    order = np.lexsort((np.arange(len(rank)), rank, point))
    keep = np.zeros(len(rank), bool)
    keep[order[np.r_[True, np.diff(point[order]) > 0]]] = True
    return keep


def points_at_edge(
    point: Int[np.ndarray, " rows"], tried: Float[np.ndarray, " rows"], best: Bool[np.ndarray, " rows"]
) -> int:
    """In how many points with three values or more the best is the smallest or the largest of those tried.

    Args:
        point: number of the point of each row.
        tried: what was varied, as a learning rate.
        best: one row a point.
    """
    low, high = np.full(point.max() + 1, np.inf), np.full(point.max() + 1, -np.inf)
    np.minimum.at(low, point, tried)
    np.maximum.at(high, point, tried)
    at_end = (tried[best] <= low[point[best]]) | (tried[best] >= high[point[best]])
    return int(np.sum(at_end & (np.bincount(point)[point[best]] >= 3)))
