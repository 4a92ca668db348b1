"""Variants of the judge: Gaussian processes around laws and forecasts, and conformal intervals from roll-outs."""

import json
import sys

import numpy as np
import pytest
from tiers import tiered

from benchmarks import (
    heldout_cases as cases_of,
    heldout_conformal as conformal,
    heldout_contenders as contenders,
    heldout_forecasts as forecasts,
    heldout_processes as processes,
    heldout_rollouts as rollouts,
    heldout_scores as scores,
)

GROWTH = 0.003


def coupled_loss(rows):
    return 1.7 + ((6 / rows.n**0.11) ** 2 + (8 / rows.d**0.1) ** 2) ** 0.5


def coupled_case(noise=0.0, seed=0, cut="far"):
    """An iso-FLOP table of a coupled law."""
    c = np.repeat(np.geomspace(1e18, 1e21, 7), 9)
    n = np.sqrt(c / 120) * np.tile(np.geomspace(0.2, 5, 9), 7)
    d = c / (6 * n)
    number, isoflop = cases_of.budgets(c)
    run = np.arange(len(c)).astype(str).astype(object)
    rows = cases_of.Rows(n, d, c, np.ones(len(c)), run, number, np.full(len(c), "", object))
    loss = coupled_loss(rows) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(c)))
    rows = cases_of.Rows(**{**vars(rows), "loss": loss})
    return cases_of.cut_by_compute(cases_of.HeldoutTable("coupled", "one", cases_of.Kind.SURFACE, rows, isoflop), cut)


def rolled(rng, source, runs=60, residual=0.004, growth=GROWTH):
    """A case whose roll-out errs by the residual and by what grows with distance; the package's own intervals say so."""
    case = coupled_case()
    case = cases_of.Case(
        cases_of.HeldoutTable(f"{source}{rng.integers(10**6)}", source, case.table.kind, case.table.rows, True),
        case.cut,
        case.fitted,
        case.scored,
        case.near,
    )
    distance = rng.uniform(0.2, 4.0, runs)
    deviation = np.hypot(residual, growth * distance)
    own = np.tile(deviation, (2, 1))
    roll_out = rollouts.RollOut(deviation * rng.standard_normal(runs), distance, own, own)
    ahead = np.log(case.scored.c / case.fitted.c.max())
    half = np.hypot(residual, growth * ahead)
    median = case.scored.loss * np.exp(half * rng.standard_normal(len(half)))
    ends = np.tile(median * np.exp([[-1.0], [1.0]] * half), (2, 1, 1))
    return rollouts.RolledCase(case, forecasts.RunForecasts(median, ends), residual, roll_out)


def test_a_process_around_the_coupled_law_finds_runs_without_noise():
    case = coupled_case()
    found = contenders.run(contenders.CONTENDERS["process_coupled"], case.fitted, case.points)
    np.testing.assert_allclose(found.median, case.scored.loss, rtol=1e-4)


def test_derivatives_of_the_coupled_law_are_those_of_its_terms():
    """By log E it is the share of E in the loss, by log a and log b together the rest."""
    case = coupled_case()
    law = processes.CoupledFit(np.array([0.5, -0.5, -0.7, 0.2, 0.3, np.log(0.6)]), np.array([18.0, 22.0]))
    slopes, loss = law.slopes(case.fitted), np.exp(law.at(law.params, case.fitted))
    np.testing.assert_allclose(slopes[:, 0], np.exp(0.5) / loss, rtol=1e-6)
    np.testing.assert_allclose(slopes[:, 1] + slopes[:, 2], 1 - np.exp(0.5) / loss, rtol=1e-6)


def test_a_process_keeps_a_smooth_departure_and_says_nothing_far_away():
    """Residuals that are a smooth function of size are found in range; far beyond, their mean is zero and their
    deviation that of the departures."""
    case = coupled_case()
    rows, x = case.fitted, np.log(case.fitted.n)
    departure = lambda log_n: 0.01 * np.sin(4 * (log_n - x.mean()) / x.std())
    near = processes.residual_process(rows, departure(x), cases_of.Points(rows.n, rows.d, rows.c))
    np.testing.assert_allclose(near.mean, departure(x), atol=1e-3)
    far = processes.residual_process(rows, departure(x), cases_of.Points(rows.n * 1e9, rows.d, rows.c))
    np.testing.assert_allclose(far.mean, 0.0, atol=1e-3)
    assert np.all(far.process > 0.005) and near.process.max() < 1e-3


@pytest.mark.parametrize("name", tiered(["process_coupled", "process_isoflop"], ["process_coupled"]))
def test_processes_cover_runs_of_a_coupled_law(name):
    """Errors of one table's runs ahead go together: three tables, and bounds that such errors rarely pass."""
    figures = []
    for seed in range(3):
        case = coupled_case(noise=0.003, seed=seed, cut="near")
        found = contenders.run(contenders.CONTENDERS[name], case.fitted, case.points)
        figures.append(scores.case_figures(case, found, 0.0))
    error, inside, width = (np.mean([each[key] for each in figures]) for key in ("error", "inside_95", "width"))
    assert error < 0.8 and inside > 0.8
    assert 1.1 < width < 4  # 1.2 at full knowledge


def test_quantiles_have_the_rank_of_exchangeable_errors():
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    assert conformal.table_quantile(errors, 0.95) == 95.0  # of 100 with the new one
    assert conformal.table_quantile(errors, 0.5) == 50.0
    assert conformal.table_quantile(np.array([3.0, 1.0]), 0.95) == 3.0
    assert conformal.weighted_quantile(np.array([2.0, 1.0, 3.0]), np.array([0.2, 0.6, 0.2]), 0.5) == 1.0
    assert conformal.weighted_quantile(np.array([2.0, 1.0, 3.0]), np.array([0.2, 0.6, 0.2]), 0.79) == 2.0


@pytest.mark.parametrize("name", ["studentised", "signed", "studentised_others", "growing", "growing_others"])
def test_conformal_intervals_cover_runs_that_err_as_roll_outs_do(name):
    """Three sources of 40 tables each: intervals of roll-outs and of the runs ahead are exchangeable."""
    rng = np.random.default_rng(1)
    cases = [rolled(rng, source) for source in "abc" for _ in range(40)]
    if name.startswith("growing"):  # each case tries seven growths on all others
        cases = cases[::4]
    variant = conformal.VARIANTS[name][1]
    inside = []
    for found in cases:
        others = [other for other in cases if other.case.table.source != found.case.table.source]
        figures = scores.case_figures(found.case, variant(found, others), None)
        inside.append((figures["inside_50"], figures["inside_95"]))
    half, nearly_all = np.mean(inside, axis=0)
    runs = len(cases) * len(cases[0].case.scored)
    slack = 3 * np.sqrt(0.25 / runs) + 0.05  # quantiles of 60 errors differ from nominal ones
    assert abs(half - 0.5) < slack and abs(nearly_all - 0.95) < slack


def test_growth_is_chosen_on_the_other_sources():
    """Tables that err by five times as much with distance: the others' choice, whatever the table's own roll-out."""
    rng = np.random.default_rng(2)
    slow, fast = ([rolled(rng, source, growth=growth) for source in "bcd"] for growth in (0.0005, 0.01))
    own = rolled(rng, "a", growth=0.0)
    variant = conformal.VARIANTS["growing_others"][1]
    width = lambda others: scores.case_figures(own.case, variant(own, others), None)["width"]
    assert width(fast) > 2 * width(slow)


def test_origins_keep_budgets_whole_and_the_largest_ahead():
    rows = coupled_case().fitted
    found = rollouts.origins(rows)
    assert [mask.sum() for mask in found] == [18, 27, 36]
    for mask in found:
        assert rows.c[mask].max() < rows.c[~mask].min()


def test_roll_outs_are_kept_and_read_again(tmp_path, monkeypatch):
    """The forecasts below the cut are those of fits that never saw the runs beyond; a second call fits nothing."""
    case = coupled_case(noise=0.003)
    fitted = []

    def knows(rows, source):
        fitted.append(rows)
        return rows

    def forecast(fit, points):
        loss = coupled_loss(points)
        return forecasts.RunForecasts(loss, np.tile(loss * [[0.99], [1.02]], (2, 1, 1)))

    monkeypatch.setattr(rollouts, "default_fit", knows)
    monkeypatch.setattr(rollouts, "forecasts_of", forecast)
    first = rollouts.kept_or_rolled(case, tmp_path)
    assert [len(rows) for rows in fitted] == [len(case.fitted), 18, 27, 36]
    assert len(first.roll_out.error) == sum(len(case.fitted) - count for count in (18, 27, 36))
    assert np.abs(first.roll_out.error).std() < 0.003 and np.all(first.roll_out.distance > 0)
    np.testing.assert_allclose(first.roll_out.above, np.log(1.02))
    second = rollouts.kept_or_rolled(case, tmp_path)
    assert len(fitted) == 4
    for ours, kept in zip(first.roll_out, second.roll_out, strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_a_package_that_refuses_is_a_reason(tmp_path, monkeypatch):
    def refuses(rows, source):
        raise forecasts.CannotForecast("too few rows")

    monkeypatch.setattr(rollouts, "default_fit", refuses)
    assert rollouts.kept_or_rolled(coupled_case(), tmp_path) == "too few rows"


def test_the_command_writes_every_variant(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(3)
    made = {source: rolled(rng, source) for source in "abc"}
    cases = [found.case for found in made.values()]
    monkeypatch.setenv("ISOFLOP_PUBLISHED", str(tmp_path))
    monkeypatch.setattr(conformal, "read_cases", lambda folder: cases)
    monkeypatch.setattr(conformal, "kept_or_rolled", lambda case, work: made[case.table.source])
    monkeypatch.setattr(conformal, "CUTS", ("far",))
    out = tmp_path / "conformal.json"
    monkeypatch.setattr(sys, "argv", ["heldout_conformal", "--out", str(out)])
    assert conformal.main() == 0
    report = json.loads(out.read_text())
    assert set(report["sections"]["far"]["figures"]) == set(conformal.VARIANTS) == set(report["variants"])
    assert "growing_others" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["heldout_conformal", "--tables", "nothing", "--out", str(out)])
    assert conformal.main() == 2
