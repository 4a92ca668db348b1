"""Approach 1 and approach 2 on sweeps of known truth."""

import numpy as np
import pandas as pd
import pytest
from simulated import TRUTH, simulate, simulate_curves
from tiers import tiered

import laws
from benchmarks.approach2 import (
    AROUND,
    BIAS_DESIGNS,
    NEARLY_EQUAL,
    TARGET,
    TRUTHS,
    Design,
    best_size,
    bias,
    exponent as exponent_of,
    plain_parabola,
    scatter,
)
from laws.approaches.budget_minima import MinimumFlaw
from laws.approaches.envelope import envelope
from laws.approaches.isoflop_profiles import isoflop_profiles
from laws.approaches.loss_profiles import METHODS
from laws.base.errors import InputError
from laws.data.curves import load_curves, smoothed
from laws.data.grouping import budget_groups
from laws.data.token_cost import fit_token_cost
from laws.inference.allocation import allocate
from laws.model.forms import find
from laws.results.report_parts import WarningKind


def test_budgets_group_equal_compute():
    compute = np.array([1.0e11, 1.8e11, 1.003e11, 0.999e11, 1.79e11, 5e11])
    assert budget_groups(compute).tolist() == [0, 1, 0, 0, 1, 2]


@pytest.fixture(scope="module")
def exponent():
    """That of exact FLOPs, which differs from beta / (alpha + beta) by what the cost curve adds."""
    truth = np.array([[TRUTH[name] for name in find("chinchilla").names]])
    cost = fit_token_cost(laws.load(simulate(noise=0, seeds=1)))
    return lambda compute: allocate(find("chinchilla"), truth, np.array([compute]), cost, (1e4, 1e5)).a[0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_isoflop_finds_the_exponent(method, exponent):
    table = laws.load(simulate(noise=1e-4))
    profiles = isoflop_profiles(table, fit_token_cost(table), method, draws=300)
    assert profiles.a == pytest.approx(exponent(3e11), abs=0.05)
    assert profiles.noise == pytest.approx(1e-4 * 1.85, rel=0.8)
    assert profiles.noise_from == "repeated runs"
    assert all(m.low <= m.n <= m.high for m in profiles.minima if m.flaw is None)


def test_a_minimum_at_the_edge_is_rejected():
    runs = simulate(noise=0, seeds=1)
    top = runs.budget == 1e12
    best = runs[top].loss.idxmin()
    larger = runs[top & (runs.params_total > runs.params_total[best])]
    wider = larger.iloc[-1:].assign(run_id="x", params_total=200_000, tokens=500_000, loss=2.5, flops_exact=1e12)
    extra = larger.iloc[-1:].assign(run_id="y", params_total=300_000, tokens=400_000, loss=3.0, flops_exact=1e12)
    table = laws.load(pd.concat([runs[~top], larger, wider, extra]))
    profiles = isoflop_profiles(table, fit_token_cost(laws.load(runs)), "akima", noise=1e-4, draws=200)
    assert profiles.minima[-1].flaw == MinimumFlaw.AT_SMALLEST == "the minimum is at the smallest size"
    assert np.isnan(profiles.minima[-1].n)
    assert [m.flaw for m in profiles.minima[:-1]] == [None] * 4
    with pytest.raises(InputError, match="0 budgets have an interior minimum"):
        isoflop_profiles(
            laws.load(pd.concat([larger, wider, extra])), fit_token_cost(laws.load(runs)), "akima", noise=1e-4
        )


@pytest.mark.parametrize("method", METHODS)
def test_sizes_on_one_side_of_the_optimum_have_no_minimum(method):
    law = Design("all larger", lambda c, best: best * np.geomspace(1.5, 8, 6) if c > 5e21 else best * AROUND)
    profiles = isoflop_profiles(law.table(NEARLY_EQUAL), method=method, noise=1e-5, draws=100)
    flaws = [minimum.flaw for minimum in profiles.minima]
    assert flaws == [None] * (len(flaws) - 1) + [MinimumFlaw.AT_SMALLEST]


# Error of log N* at 1e24 FLOPs without noise, in the worst of three laws (``benchmarks.approach2``): (cubic, parabola).
WORST_BIAS = {
    "the same sizes at every budget": (0.02, 0.25),
    "sizes within 4 times the best": (0.002, 0.03),
    "within 32 times": (0.006, 0.15),
    "within 5 times twice the best": (0.01, 0.01),
}


@pytest.mark.parametrize("design", BIAS_DESIGNS, ids=lambda design: design.label)
def test_cubics_are_hardly_biased_without_noise(design):
    at_most, parabola_at_least = WORST_BIAS[design.label]
    worst = {
        method: max(abs(bias(design, truth, method)[1]) for truth in TRUTHS.values())
        for method in ("cubic", "parabola")
    }
    assert worst["cubic"] < at_most
    assert worst["parabola"] > parabola_at_least


def test_the_published_bias_of_plain_parabolas():
    """Parabolas in the loss through the same sizes at every budget: N* at 1e24 FLOPs is 23% low (arXiv 2603.22339)."""
    compute = np.geomspace(1e19, 1e22, 7)
    ends = best_size(NEARLY_EQUAL, compute[[0, -1]])
    sizes = np.geomspace(ends[0] / 3, ends[1] * 3, 9)
    table = Design("golden", lambda c, best: sizes).table(NEARLY_EQUAL)
    a, log_g = plain_parabola(table)
    assert a == pytest.approx(0.4976, abs=5e-4)
    assert np.exp(log_g) * TARGET**a / best_size(NEARLY_EQUAL, TARGET) == pytest.approx(0.77, abs=0.01)
    cubic = isoflop_profiles(table, noise=1e-6, draws=20)
    assert cubic.a == pytest.approx(exponent_of(NEARLY_EQUAL), abs=2e-3)
    assert np.exp(cubic.log_g) * TARGET**cubic.a / best_size(NEARLY_EQUAL, TARGET) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("design", tiered(BIAS_DESIGNS, BIAS_DESIGNS[:1]), ids=lambda design: design.label)
def test_intervals_of_cubics_cover(design):
    """300 sweeps: Monte-Carlo error 1.3 points. Akima's errors are more than twice the cubic's."""
    cubic, akima = (scatter(design, NEARLY_EQUAL, method, sweeps) for method, sweeps in (("cubic", 300), ("akima", 40)))
    assert 0.92 < cubic["coverage"] < 0.995
    assert akima["rms_error"] > 2 * cubic["rms_error"]


def test_not_an_isoflop_table(published):
    table = laws.load(published / "ladder_c4.csv", n="params", d="tokens")
    with pytest.raises(InputError, match="not an iso-FLOP table"):
        isoflop_profiles(table, fit_token_cost(table))


def test_smoothing_is_exact_on_a_power_law():
    x = np.linspace(np.log(1e3), np.log(1e6), 400)
    at = np.array([np.log(5e3), np.log(1e5), np.log(1e8)])
    smooth = smoothed(x, 3 - 0.2 * x, at)
    assert smooth[:2] == pytest.approx(3 - 0.2 * at[:2])
    assert np.isnan(smooth[2])


def test_envelope_finds_the_exponent(exponent):
    """With noiseless curves that follow the law, the envelope's exponent is the law's, up to the steps between sizes."""
    runs = simulate(noise=0, seeds=1)
    runs["tokens"] *= 4
    runs["flops_exact"] *= 4
    runs["loss"] = (
        TRUTH["E"] + TRUTH["A"] / runs.params_total ** TRUTH["alpha"] + TRUTH["B"] / runs.tokens ** TRUTH["beta"]
    )
    table = laws.load(runs)
    estimate = envelope(table, load_curves(simulate_curves(runs, noise=0)), draws=50)
    expected = exponent(float(np.median(estimate.c)))
    assert estimate.a == pytest.approx(expected, abs=0.15)
    assert estimate.a_interval[0] < expected < estimate.a_interval[1] or abs(estimate.a - expected) < 0.1
    # Every point is a size strictly inside those in training.
    assert estimate.n.min() > table.values["n"].min()
    assert estimate.n.max() < table.values["n"].max()


def test_envelope_without_curves(sweep):
    with pytest.raises(InputError, match="too few"):
        envelope(laws.load(sweep), {})
    with pytest.raises(InputError, match="no column 'tokens'"):
        load_curves(sweep.drop(columns="tokens"))


def test_all_three_stand_side_by_side(fitted):
    approaches = fitted.report.approaches
    assert set(approaches) == {"envelope", "isoflop_cubic", "isoflop_akima", "isoflop_parabola"}
    for approach in approaches.values():
        assert (approach.a is None) != (approach.reason is None)
    (warning,) = (warning for warning in fitted.warnings if warning.kind == WarningKind.APPROACH_2_BIAS)
    assert "approach 2 is biased" in warning.text
