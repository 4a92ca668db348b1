"""Designs: counts and laws of the combinators, per-budget sizes, repeats, filters."""

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from sweeps import design as d

VALUES = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)


def designs(key):
    return VALUES.map(lambda values: d.axis(key, values))


@given(designs("a"), designs("b"), designs("c"))
def test_product_counts_and_is_associative(a, b, c):
    assert len(d.product(a, b, c)) == len(a) * len(b) * len(c)
    assert d.product(d.product(a, b), c) == d.product(a, d.product(b, c)) == d.product(a, b, c)
    assert d.product(a) == a and d.product() == ({},)


@given(designs("a"), designs("a"), designs("b"))
def test_product_distributes_over_chain(a, more, b):
    assert d.product(d.chain(a, more), b) == d.chain(d.product(a, b), d.product(more, b))


@given(designs("a"), designs("b"), st.integers(0, 9))
def test_a_filter_goes_through_a_product(a, b, limit):
    kept = d.filter_(d.product(a, b), ("a", "<=", limit))
    assert kept == d.product(d.filter_(a, ("a", "<=", limit)), b)
    assert len(kept) + len(d.filter_(d.product(a, b), ("a", ">", limit))) == len(a) * len(b)


@given(VALUES)
def test_zip_pairs_points_one_to_one(values):
    joined = d.zip_(d.axis("a", values), d.axis("b", [2 * value for value in values]))
    assert joined == tuple({"a": value, "b": 2 * value} for value in values)


def test_zip_refuses_unequal_lengths_and_product_two_values_for_one_key():
    with pytest.raises(ValueError, match="2, 3 points"):
        d.zip_(d.axis("a", (1, 2)), d.axis("b", (1, 2, 3)))
    with pytest.raises(ValueError, match="two values for seed: 0 and 1"):
        d.product(d.axis("seed", (0,)), d.axis("seed", (1,)))


def test_isoflop_crosses_budgets_with_sizes_or_gives_each_its_own():
    assert d.isoflop((1e11, 2e11), (1e4, 2e4))[1] == {"duration.flops": 1e11, "model.size": 2e4, "label.budget": 1e11}
    own = d.isoflop((1e11, 2e11), {1e11: (1e4,), 2e11: (2e4, 3e4)})
    assert [(point["duration.flops"], point["model.size"]) for point in own] == [(1e11, 1e4), (2e11, 2e4), (2e11, 3e4)]
    with pytest.raises(ValueError, match="no sizes for the budget 2e\\+11"):
        d.isoflop((1e11, 2e11), {1e11: (1e4,)})


def test_three_seeds_at_one_point_of_each_budget():
    budgets, sizes = (1e11, 2e11), (1e4, 2e4, 3e4)
    study = d.chain(d.isoflop(budgets, sizes), d.product(d.isoflop(budgets, (2e4,)), d.axis("seed", (1, 2))))
    assert len(study) == 2 * 3 + 2 * 2
    seeds = [point.get("seed", 0) for point in study if point["model.size"] == 2e4 and point["label.budget"] == 1e11]
    assert seeds == [0, 1, 2]


def test_ladder():
    assert len(d.ladder((1e4, 2e4), (10, 20, 40))) == 6
    assert d.ladder((1e4,), 20) == ({"model.size": 1e4, "duration.tokens_per_param": 20},)


def test_labels_are_told_from_overrides_and_filtered_by_name():
    design = d.label(d.axis("seed", (0, 1)), study="noise")
    assert d.split(design[1]) == ({"seed": 1}, {"study": "noise"})
    assert d.filter_(design, ("study", "==", "noise"), ("seed", "in", (1,))) == (design[1],)
    assert d.filter_(d.chain(design, d.axis("model.size", (5,))), ("seed", ">=", 0)) == design  # others do not meet it


def test_filter_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="no operator '~'"):
        d.filter_(d.axis("seed", (0,)), ("seed", "~", 1))
    with pytest.raises(ValueError, match="no point has 'sed' \\(there are: seed\\)"):
        d.filter_(d.axis("seed", (0,)), ("sed", "==", 1))


def test_designs_are_values_of_their_own():
    a = d.axis("a", (1,))
    d.chain(a)[0]["a"] = d.product(a)[0]["a"] = d.filter_(a)[0]["a"] = d.points(a)[0]["a"] = 2
    assert a == ({"a": 1},)
    with pytest.raises(ValueError, match="point 0"):
        d.points((("a", 1),))


def jacobian(design, constants):
    """Derivatives of the coupled law by the logarithms of its constants at points of (N, D), C being 6 N D."""
    sizes = np.array([point["model.size"] for point in design])
    tokens = [
        point.get("duration.tokens", point.get("duration.flops", 0) / 6 / point["model.size"]) for point in design
    ]

    def loss(logs):
        a, b, floor, alpha, beta, kappa = np.exp(logs)
        return floor + (a * sizes**-alpha + b * np.array(tokens) ** -beta) ** kappa

    logs, step = np.log(constants), 1e-5
    return np.stack([(loss(logs + step * e) - loss(logs - step * e)) / (2 * step) for e in np.eye(len(logs))], axis=1)


def test_two_bands_identify_the_coupled_law_and_one_ratio_does_not():
    design = d.lshape((1e4, 2e4), np.geomspace(1e5, 1e8, 7), 1e11, np.geomspace(1e4, 1e6, 7))
    assert len(design) == 2 * 7 + 7 and {point["label.band"] for point in design} == {"horizons", "sizes"}
    assert design[-1]["label.budget"] == 1e11 and "label.budget" not in design[0]
    one = d.table({"model.size": n, "duration.tokens": 20 * n} for n in np.geomspace(1e4, 1e6, 21))
    constants = (400.0, 400.0, 1.7, 0.34, 0.28, 0.8)
    bands, ladder = (np.linalg.svd(jacobian(points, constants), compute_uv=False) for points in (design, one))
    assert bands[-1] / bands[0] > 1e-5 and ladder[-1] / ladder[0] < 1e-7
    with pytest.raises(ValueError, match="lshape: sizes of two values or more are a band"):
        d.lshape((1e4,), (1e5, 1e6), 1e11, (1e4, 1e4))


def test_random_points_are_even_in_logarithms_whole_where_ends_are_and_grow_by_their_seed():
    ranges = {"optimizer.learning_rate": (1e-4, 1e-1), "batch_size": (4, 64), "optimizer.b2": (0.9, 0.999, "linear")}
    points = d.random(ranges, 300, seed=1)
    assert points[:20] == d.random(ranges, 20, seed=1) != d.random(ranges, 20, seed=2)
    for key, low, middle, high in (
        ("optimizer.learning_rate", 1e-4, 10**-2.5, 1e-1),
        ("batch_size", 4, 16, 64),
        ("optimizer.b2", 0.9, 0.9495, 0.999),
    ):
        values = [point[key] for point in points]
        assert min(values) >= low and max(values) <= high
        assert sum(value < middle for value in values) == pytest.approx(150, abs=15)
    assert all(type(point["batch_size"]) is int for point in points) and all(json.dumps(point) for point in points)


@pytest.mark.parametrize(
    ("ranges", "count"),
    [({}, 3), ({"a": (1, 2)}, 0), ({"a": (2, 1)}, 3), ({"a": (0, 1)}, 3), ({"a": (0, 1, "cubic")}, 3)],
)
def test_ranges_with_nothing_between_are_refused(ranges, count):
    with pytest.raises(ValueError, match="random: "):
        d.random(ranges, count)
