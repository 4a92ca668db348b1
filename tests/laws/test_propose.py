"""Proposals: what they must respect, what they gain, what they are worth under departures, the command, its benchmark."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import toy
from ml_collections import ConfigDict

import laws
from benchmarks import propose as benchmark, simulation
from isoflop import cli
from laws.base.errors import InputError
from laws.estimation.refit import slopes_at
from laws.uses import optimal_design
from laws.uses.optimal_design import CandidateRuns, FittedRuns, InformationState, information_state
from laws.uses.propose import LACK_OF_FIT_RUNS, RATIO_MARGIN, candidates, farthest_points, propose
from sweeps import design, plan

BUDGET = 5e12


@pytest.fixture(scope="module")
def proposals(fitted):
    return {quantity: propose(fitted, BUDGET, quantity=quantity) for quantity in ("loss", "n")}


@pytest.fixture(scope="module")
def known(fitted):
    """Information about the loss at 1e13 FLOPs, and the candidates."""
    predictor, data = fitted.predictor, fitted.report.data
    fitted_runs = FittedRuns.of(
        {variable: np.array(data.values[variable]) for variable in "ndc"}, data.run, 0.003, "log_huber", 1e-3
    )
    points = candidates(predictor, fitted_runs, 1e12)
    return information_state(predictor, fitted_runs, points, 1e13, "loss"), points


@pytest.mark.parametrize("quantity", ["loss", "n"])
def test_a_proposal_keeps_to_its_budget_and_ranges(proposals, fitted, quantity):
    proposal, data = proposals[quantity], fitted.report.data.values
    ratio = np.array(data["d"]) / np.array(data["n"])
    points = proposal.points
    assert 8 <= len(points) == len({(point.n, point.d) for point in points}) <= 10
    assert 0.8 * BUDGET < proposal.flops == pytest.approx(sum(point.c for point in points))
    assert proposal.flops <= BUDGET
    for point in points:
        assert min(data["c"]) <= point.c * (1 + 1e-9) and point.c <= proposal.largest * (1 + 1e-9)
        assert ratio.min() / RATIO_MARGIN * 0.999 < point.tokens_per_param < ratio.max() * RATIO_MARGIN * 1.001
        log_cost = fitted.predictor.cost.log_flops_per_token(np.log(point.n))
        assert point.c == pytest.approx(point.d * np.exp(log_cost), rel=1e-5)
        assert point.interval[0] < point.loss < point.interval[1]


@pytest.mark.parametrize("quantity", ["loss", "n"])
def test_it_expects_less_error_than_a_grid_or_chance_for_the_same_flops(proposals, quantity):
    error, ratio = proposals[quantity].expected_error, proposals[quantity].variance_ratio
    assert error.after < min(error.isoflop, error.random) < error.before
    assert ratio.isoflop == pytest.approx((error.after / error.isoflop) ** 2)
    assert proposals[quantity].to_dict()["variance_ratio"] == dataclasses.asdict(ratio)


def test_two_runs_are_kept_for_lack_of_fit_far_from_the_others(proposals, fitted):
    points, data = proposals["loss"].points, fitted.report.data.values
    roles = [point.design_role for point in points]
    assert roles == ["informative"] * (len(points) - LACK_OF_FIT_RUNS) + ["lack of fit"] * LACK_OF_FIT_RUNS
    positions = np.log([[point.n, point.d] for point in points])
    runs = np.log(np.stack([data["n"], data["d"]], axis=1))
    for test in positions[-LACK_OF_FIT_RUNS:]:
        assert np.linalg.norm(runs - test, axis=1).min() > 0.4  # log N and log D
    assert np.linalg.norm(positions[-1] - positions[-2]) > 1


def test_a_proposal_is_a_table_and_a_line(proposals):
    proposal = proposals["n"]
    frame = proposal.frame()
    assert list(frame.columns) == ["n", "d", "c", "tokens_per_param", "design_role", "loss", "low", "high"]
    assert len(frame) == len(proposal.points) and frame.c.sum() == pytest.approx(proposal.flops)
    assert (frame.low < frame.high).all() and set(frame.design_role) == {"informative", "lack of fit"}
    assert repr(proposal).count("\n") == 0 and "expected error of n at 1e+12 FLOPs" in repr(proposal)


def test_runs_for_lack_of_fit_are_the_farthest_that_their_budget_pays_for():
    n = np.array([1.0, 1e1, 1e2, 1e3, 1e5])
    points, others = CandidateRuns(n, np.ones(5), n), CandidateRuns(np.array([0.1]), np.ones(1), np.ones(1))
    assert farthest_points(points, others, 2e3, 2).tolist() == [3, 1]  # each may cost half; then between both
    assert farthest_points(points, others, 2e5, 2).tolist() == [4, 2]


def test_more_flops_are_worth_more(proposals, fitted):
    assert propose(fitted, 4 * BUDGET).expected_error.after < proposals["loss"].expected_error.after


def test_a_proposal_is_a_function_of_the_fit(proposals, fitted):
    assert propose(fitted, BUDGET, quantity="loss") == proposals["loss"]


def in_units(fitted, unit):
    """The same fit where tokens and FLOPs are counted in units of so many."""
    report = fitted.report

    def runs(values):
        return values | {variable: tuple(np.array(values[variable]) / unit) for variable in "dc"}

    def constants(values):
        if "B" in values:
            return values | {"B": np.array(values["B"]) * unit ** -np.array(values["beta"])}
        return values | {"Dc": np.array(values["Dc"]) / unit} if values else values

    def in_its_constants(form):
        return dataclasses.replace(form, params=constants(form.params), samples=constants(form.samples))

    average = report.model_average
    return dataclasses.replace(
        fitted,
        report=dataclasses.replace(
            in_its_constants(report),
            data=dataclasses.replace(report.data, values=runs(report.data.values)),
            ranges=runs(report.ranges),
            target_flops=report.target_flops / unit,
            model_average=dataclasses.replace(average, forms=tuple(map(in_its_constants, average.forms))),
        ),
    )


def test_units_of_tokens_and_flops_do_not_matter(fitted, proposals):
    in_thousands = propose(in_units(fitted, 1e3), BUDGET / 1e3)
    for variable, unit in (("n", 1), ("d", 1e3), ("c", 1e3), ("loss", 1)):
        one, two = ([getattr(point, variable) for point in p.points] for p in (proposals["loss"], in_thousands))
        assert one == pytest.approx(np.array(two) * unit, rel=1e-6)
    errors = [dataclasses.asdict(proposal.expected_error) for proposal in (in_thousands, proposals["loss"])]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_one_more_point_is_the_same_by_rank_one_update_and_from_scratch(known):
    state, points = known
    chosen = np.array([3, 11])
    added = state.expected_error_with_one_more(chosen)
    rows = range(0, len(points.n), 9)
    assert added[list(rows)] == pytest.approx([state.expected_error(np.r_[chosen, row]) for row in rows], rel=1e-9)


def test_the_loss_moves_with_the_constants_as_at_the_best_split(fitted):
    """The envelope theorem: sizes that follow the constants change the best loss in second order only."""
    predictor, data = fitted.predictor, fitted.report.data
    predictor = dataclasses.replace(predictor, rivals=(), draws=predictor.constants[None])
    columns = {variable: np.array(data.values[variable]) for variable in "ndc"}
    best = predictor.allocation(1e13)
    target = CandidateRuns(best.n[0], best.d[0], np.array([1e13]))
    fitted_runs = FittedRuns.of(columns, data.run, 0.003, "log_huber", 1e-3)
    state = information_state(predictor, fitted_runs, target, 1e13, "loss")
    rows = {variable: np.r_[columns[variable], getattr(target, variable)] for variable in "nd"}
    slope = slopes_at(predictor.law, rows, predictor.constants[None])[0, -1]
    assert state.gradient[0] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_departures_that_the_law_can_follow_leave_no_bias():
    rng = np.random.default_rng(0)
    runs, points, error = rng.standard_normal((30, 3)), rng.standard_normal((5, 3)), 0.1
    gradient, turn = rng.standard_normal(3), rng.standard_normal((3, 4))
    state = InformationState(
        (runs.T @ runs)[None], points[None], gradient[None], ((error * runs @ turn).T @ runs)[None],
        error * points @ turn, gradient @ turn, np.array([2.0]), error,
    )  # fmt: skip
    chosen = np.array([1, 4])
    every = np.concatenate([runs, points[chosen]])
    variance = gradient @ np.linalg.solve(every.T @ every, gradient)
    assert state.expected_error(chosen) ** 2 == pytest.approx(variance)
    bent = dataclasses.replace(state, target_departures=state.target_departures + 0.3)
    assert bent.expected_error(chosen) ** 2 == pytest.approx(variance + 2**2 * 4 * 0.3**2)


def test_whoever_doubts_the_form_measures_nearer_to_the_best_split(fitted):
    def aside(size):
        settings = dataclasses.replace(fitted.report.uncertainty, departures=(size,))
        report = dataclasses.replace(fitted.report, uncertainty=settings)
        proposal = propose(dataclasses.replace(fitted, report=report), BUDGET, target=1e13)
        best = proposal.target.d / proposal.target.n
        return np.mean([abs(np.log(point.tokens_per_param / best)) for point in proposal.points[:-LACK_OF_FIT_RUNS]])

    assert aside(8.0) < 0.75 * aside(0.0)


def test_of_many_rows_a_part_finds_the_departures(proposals, fitted, monkeypatch):
    monkeypatch.setattr(optimal_design, "LANDMARKS", 60)
    errors = [dataclasses.asdict(proposal.expected_error) for proposal in (propose(fitted, BUDGET), proposals["loss"])]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


def test_rows_of_one_run_tell_as_much_as_one():
    columns = {variable: np.ones(4) for variable in "ndc"}
    assert FittedRuns.of(columns, np.array(list("aaab")), 0.01, "log_squared", 1e-3).row_weight == pytest.approx(
        [1 / 3] * 3 + [1]
    )
    assert FittedRuns.of(columns, np.arange(4), 0.01, "log_squared", 1e-3).noise_sd == pytest.approx(0.01, rel=0.05)


def test_the_command_prints_and_writes_a_table_that_a_sweep_reads(fitted, proposals, tmp_path, capsys):
    fitted.save(tmp_path / "fit.json")
    toy.install()
    for name in ("next.csv", "next.json"):
        argv = ["propose", str(tmp_path / "fit.json"), f"--budget={BUDGET}", f"--out={tmp_path / name}"]
        assert cli.main([*argv, "--json"]) == 0
        proposal = json.loads(capsys.readouterr().out)
        assert proposal == proposal | proposals["loss"].to_dict()
        points = design.table(tmp_path / name)
        base = ConfigDict({"task": "toy", "batch_size": 16})
        sweep = plan.complete(ConfigDict({"name": "next", "base": base, "design": points}))
        planned = plan.plan(sweep).points
        roles = [point["design_role"] for point in proposal["points"]]
        assert [point.labels["design_role"] for point in planned] == roles
        assert [point.flops for point in planned] == pytest.approx([p["c"] for p in proposal["points"]], rel=1e-3)
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    assert text.count("lack of fit") == 3 and "in an iso-FLOP grid" in text and "written to" in text


def test_a_file_that_is_no_table_of_points_is_refused(tmp_path):
    for name, text in (("a.json", "{"), ("b.json", "[1]"), ("c.csv", "seed,label.x\n1\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}.*not a table of points|design: point 0"):
            design.table(tmp_path / name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget=1e9"], "budget of 1e\\+09 FLOPs is too small"),
        (["--budget=-1"], "budget must be positive"),
        (["--runs=2"], "runs must be at least 3, as 2 are kept for lack of fit"),
        (["--quantity=accuracy"], "quantity is one of loss, n, and is 'accuracy'"),
        (["--out=next.txt"], "points are written as .csv or .json"),
        (["--target=nan"], "target must be positive"),
    ],
)
def test_bad_requests_end_in_one_line(fitted, tmp_path, capsys, flags, message):
    fitted.save(tmp_path / "fit.json")
    assert cli.main(["propose", str(tmp_path / "fit.json"), *flags]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line)


def test_a_fit_that_cannot_propose_says_why(fitted, below):
    with pytest.raises(InputError, match="no optimum to propose for"):
        propose(laws.load(below).fit("power_c", resamples=0))
    intervals = dataclasses.replace(fitted.report.intervals, resamples=0)
    without = dataclasses.replace(fitted, report=dataclasses.replace(fitted.report, intervals=intervals))
    with pytest.raises(InputError, match="the fit has no resamples"):
        propose(without)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Three sweeps of one cell of the benchmark, in two goes."""
    path = tmp_path_factory.mktemp("propose")
    cell = ("misspecified", 0.003)
    assert simulation.advance(benchmark.name_of(cell), cell, path, 3, 2, benchmark.simulate) == 2
    assert simulation.advance(benchmark.name_of(cell), cell, path, 3, 2, benchmark.simulate) == 3
    assert simulation.advance(benchmark.name_of(cell), cell, path, 3, 2, benchmark.simulate) == 3
    return path


def test_the_benchmark_compares_arms_of_equal_compute(work):
    with np.load(work / "misspecified-0.003.npz") as arrays:
        assert arrays["error"].shape == (3, 4, 2) and int(arrays["chunks"]) == 2
        assert np.ptp(arrays["error"], axis=1).min() > 0  # every arm its own runs
    cell = benchmark.report(work, {})["cells"]["misspecified-0.003"]
    json.dumps(cell, allow_nan=False)
    assert cell["flops"]["isoflop"] == pytest.approx(1) and cell["flops"]["random"] == pytest.approx(1)
    assert 0.8 < cell["flops"]["propose_loss"] <= 1
    for quantity in benchmark.QUANTITIES:
        gain = cell[quantity]["proposed_to"]["isoflop"]
        ours, theirs = cell[quantity]["error"][f"propose_{quantity}"], cell[quantity]["error"]["isoflop"]
        assert gain["interval"][0] <= gain["ratio"] <= gain["interval"][1]
        assert gain["ratio"] == pytest.approx((ours / theirs) ** 2)
        assert cell[quantity]["aim"] == 1.1


def test_the_benchmark_counts_sweeps_without_a_best_split_and_leaves_them_out():
    rng = np.random.default_rng(0)
    arrays = {"error": rng.standard_normal((40, 4, 2)), "flops": np.ones((40, 4)), "expected": np.full((40, 2), 0.5)}
    arrays["error"][:, benchmark.ARMS.index("propose_loss"), 0] = 0.5 * arrays["error"][:, 0, 0]
    whole = benchmark.summary(("chinchilla", 0.003), arrays)
    assert whole["loss"]["proposed_to"]["isoflop"]["ratio"] == pytest.approx(0.25)
    assert "isoflop" not in whole["loss"]["missed"] and whole["n"]["missed"]
    for values in arrays.values():
        values[3] = np.nan
    fewer = benchmark.summary(("chinchilla", 0.003), arrays)
    assert (fewer["sweeps"], fewer["without_a_split"]) == (40, 1)
    assert fewer["loss"]["proposed_to"]["isoflop"]["ratio"] == pytest.approx(0.25)
    json.dumps(fewer, allow_nan=False)


def in_one_ratio(spread, seed=0):
    """Runs of about 20 tokens a parameter."""
    rng, n = np.random.default_rng(seed), np.geomspace(1e7, 1e9, 16)
    d = 20 * n * np.exp(spread * rng.standard_normal(16))
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(0.002 * rng.standard_normal(16))
    return laws.load(pd.DataFrame({"n": n, "d": d, "c": 6 * n * d, "loss": loss}), n="n", d="d", c="c")


def test_runs_in_step_are_refused_and_runs_that_separate_the_terms_are_named():
    fit = in_one_ratio(0.0).fit("chinchilla", resamples=20)
    with pytest.raises(
        InputError, match=r"nothing separates the terms of size and data: train runs off their line"
    ) as refused:
        propose(fit)
    named = [tuple(map(float, pair)) for pair in re.findall(r"n ([\d.e+]+) with d ([\d.e+]+)", str(refused.value))]
    ratio = np.array([d / n for n, d in named])
    assert len(named) == 4 and sorted(np.round(ratio / 20, 1)) == [0.1, 0.1, 9, 9]


def test_runs_of_about_one_ratio_are_told_and_spread():
    fit = in_one_ratio(0.08).fit("chinchilla", resamples=40)
    proposal = propose(fit, runs=6)
    ratio = np.array([point.tokens_per_param for point in proposal.points])
    assert ratio.max() / ratio.min() > 5
    assert any("hardly separate the terms of size and data" in text for text in proposal.warnings)
    assert proposal.expected_error.after < proposal.expected_error.before


def test_designs_are_averaged_over_the_coupled_form(known, fitted):
    """Six constants: the separable law has five, and is padded with one that nothing depends on."""
    state, _ = known
    weights = {form.label: form.weight for form in fitted.predictor.forms}
    assert sum(weight for label, weight in weights.items() if label.startswith("coupled")) > 0.1
    assert state.information.shape[1:] == (6, 6)
    assert (state.slopes[:, :, 5] != 0).any()
