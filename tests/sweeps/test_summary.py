"""Means over seeds and folds."""

import numpy as np
import pytest

from sweeps import design, summary
from training.errors import BadInput

ROWS = [
    {"status": "completed", "kind": kind, "accuracy": value, "note": "x"}
    for kind, value in (("a", 0.9), ("b", 0.5), ("a", 0.8), ("a", 0.7))
] + [{"status": "diverged", "kind": "a", "accuracy": None}]


def test_means_by_group():
    a, b = summary.means(ROWS, ["accuracy"], ["kind"])
    values = np.array([0.9, 0.8, 0.7])
    assert a["kind"] == "a" and a["accuracy"].mean == pytest.approx(0.8) and a["accuracy"].runs == 3
    assert a["accuracy"].error == pytest.approx(values.std(ddof=1) / 3**0.5)
    assert str(a["accuracy"]) == "0.800 ± 0.058 (3 runs)"
    assert b["accuracy"].error is None and str(b["accuracy"]) == "0.5 (1 run)"
    assert summary.means(ROWS, ["accuracy"])[0]["accuracy"].runs == 4


@pytest.mark.parametrize(
    ("rows", "metrics", "message"),
    [
        (ROWS[-1:], ["accuracy"], "no run has completed"),
        (ROWS, ["acuracy"], "no column 'acuracy'.*accuracy"),
        (ROWS, ["note"], "column 'note': not a number in every run"),
    ],
)
def test_what_has_no_mean_is_refused(rows, metrics, message):
    with pytest.raises(BadInput, match=message):
        summary.means(rows, metrics)


def test_folds_are_a_design():
    assert design.folds(3) == tuple({"data.folds": 3, "data.fold": i} for i in range(3))
