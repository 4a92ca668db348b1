"""The judge of extrapolated forecasts: what is fitted and what is scored, how scores are pooled, and what is refused."""

import json
import sys

import numpy as np
import pytest

from benchmarks import (
    fit_contenders,
    heldout,
    heldout_cases as cases_of,
    heldout_contenders as contenders,
    heldout_earlier,
    heldout_forecasts as forecasts,
    heldout_power_sums as power_sums,
    heldout_scores as scores,
    heldout_tables as tables,
)
from benchmarks.heldout_cases import Kind

BUDGETS = np.geomspace(1e18, 1e21, 7)
NOISE = 0.01


def table(rng, name="made", source="one", budgets=BUDGETS, sizes=12):
    """An iso-FLOP table of a known law with log-normal noise."""
    c = np.repeat(budgets, sizes)
    n = np.sqrt(c / 120) * np.tile(np.geomspace(0.2, 5, sizes), len(budgets))
    d = c / (6 * n)
    loss = (1.7 + 400 / n**0.34 + 410 / d**0.28) * np.exp(NOISE * rng.standard_normal(len(c)))
    number, isoflop = cases_of.budgets(c)
    run = np.arange(len(c)).astype(str).astype(object)
    rows = cases_of.Rows(n, d, c, loss, run, number, np.full(len(c), "", object))
    return cases_of.HeldoutTable(name, source, Kind.SURFACE, rows, isoflop)


def write(folder, name, columns):
    """A CSV of columns."""
    lines = [",".join(columns), *(",".join(map(repr, map(float, row))) for row in zip(*columns.values(), strict=True))]
    (folder / name).write_text("\n".join(lines) + "\n")


def columns_of(made):
    return {"params": made.rows.n, "tokens": made.rows.d, "loss": made.rows.loss}


@pytest.mark.parametrize("cut", cases_of.CUTS)
def test_a_cut_keeps_budgets_whole_and_every_row_once(cut):
    made = table(np.random.default_rng(0))
    case = cases_of.cut_by_compute(made, cut)
    assert case.fitted.c.max() < case.scored.c.min()
    assert not set(case.fitted.budget) & set(case.scored.budget)
    assert sorted([*case.fitted.run, *case.scored.run], key=int) == list(made.rows.run)
    assert case.fitted.c.max() <= 1.05 * BUDGETS[-1] / cases_of.CUTS[cut]
    assert case.scored.c.min() > BUDGETS[-1] / cases_of.CUTS[cut]


def test_budgets_that_scatter_around_the_limit_are_not_cut_in_two():
    rng = np.random.default_rng(1)
    made = table(rng, budgets=np.array([1e18, 1e19, 1e20, 1e21]))
    scattered = made.rows.c * rng.uniform(0.97, 1.03, len(made.rows))
    number, isoflop = cases_of.budgets(scattered)
    rows = cases_of.Rows(**{**vars(made.rows), "c": scattered, "budget": number})
    case = cases_of.cut_by_compute(cases_of.HeldoutTable("made", "one", Kind.SURFACE, rows, isoflop), "far")
    assert len(case.fitted) == 36 and len(case.scored) == 12


def test_too_few_rows_are_no_case():
    made = table(np.random.default_rng(0), budgets=BUDGETS[[0, -1]], sizes=7)
    assert cases_of.cut_by_compute(made, "far") is None


def test_contenders_are_not_told_a_scored_loss():
    case = cases_of.cut_by_compute(table(np.random.default_rng(0)), "far")
    assert not hasattr(case.points, "loss")
    other = cases_of.Rows(**{**vars(case.scored), "loss": 2 * case.scored.loss})
    changed = cases_of.Case(case.table, case.cut, case.fitted, other, case.near)
    for name in ("projection", "frontier_power_law", "best_so_far"):
        found = [contenders.run(contenders.CONTENDERS[name], item.fitted, item.points) for item in (case, changed)]
        np.testing.assert_array_equal(found[0].median, found[1].median)
        np.testing.assert_array_equal(found[0].ends, found[1].ends)
    assert case.fingerprint == changed.fingerprint  # so that kept forecasts stand


def test_the_best_third_of_each_budget_is_near_its_optimum():
    case = cases_of.cut_by_compute(table(np.random.default_rng(0)), "far")
    for budget in np.unique(case.scored.budget):
        inside = case.scored.budget == budget
        assert (inside & case.near).sum() == 4
        assert case.scored.loss[inside & case.near].max() <= case.scored.loss[inside & ~case.near].min()


def test_interval_scores_by_hand():
    loss = np.array([2.0, 3.5, 0.9])
    ends = np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])
    np.testing.assert_allclose(scores.interval_score(loss, ends, 0.95), [2.0, 2 + 40 * 0.5, 2 + 40 * 0.1])
    np.testing.assert_allclose(scores.interval_score(loss, ends, 0.5), [2.0, 2 + 4 * 0.5, 2 + 4 * 0.1])


def test_figures_of_a_case_by_hand():
    made = table(np.random.default_rng(0))
    one = lambda *values: np.array(values, np.float64)
    text = np.array(["a", "b"], object)
    scored = cases_of.Rows(
        one(1e9, 2e9), one(1e10, 1e10), one(6e19, 1.2e20), one(2.0, 4.0), text, np.array([0, 1]), text
    )
    case = cases_of.Case(made, "far", made.rows, scored, np.array([False, True]))
    ends = np.array([[[1.9, 4.1], [2.1, 4.2]], [[1.8, 3.8], [2.2, 4.4]]])
    found = scores.case_figures(case, forecasts.RunForecasts(one(2.2, 3.6), ends), 1.5)
    assert found["error"] == pytest.approx(10) and found["median_error"] == pytest.approx(10)
    assert found["bias"] == pytest.approx(0) and found["near_error"] == pytest.approx(10)
    assert found["inside_50"] == 0.5 and found["inside_95"] == 1.0
    assert found["width"] == pytest.approx(100 * (0.4 / 2 + 0.6 / 4) / 2)
    assert found["score"] == found["width"]  # all inside: the score is the width
    assert found["score_50"] == pytest.approx(100 * (0.2 / 2 + (0.1 + 4 * 0.1) / 4) / 2)
    assert found["cpu_seconds"] == 1.5


def test_tables_are_pooled_within_their_source_first():
    values, source = {"a": 1.0, "b": 3.0, "c": 8.0}, {"a": "x", "b": "x", "c": "y"}
    found = scores.pooled(values, source)
    assert found["sources"] == {"x": 2.0, "y": 8.0} and found["value"] == 5.0
    # Of two sources drawn twice the mean is 2, 5 or 8 with chances of 1/4, 1/2 and 1/4: a deviation of 3 / sqrt(2).
    assert found["error"] == pytest.approx(3 / np.sqrt(2), rel=0.05)
    assert scores.pooled({"a": 1.0}, source)["error"] is None


def test_contenders_are_compared_on_the_cases_that_all_could_do():
    def figures(error, score):
        return {"error": error, "score": score}

    done = {"good": {"a": figures(1.0, 2.0), "b": figures(3.0, 4.0)}, "wide": {"b": figures(9.0, 8.0)}}
    found = scores.comparison(done, ["good", "wide"], {"a": "x", "b": "y"})
    assert found["cases"] == ["b"] and found["sources"] == ["y"]
    assert found["contenders"]["good"]["error"]["value"] == 3.0
    assert found["contenders"]["wide"]["score_of_best"]["value"] == 2.0
    assert scores.comparison(done, ["good"], {"a": "x", "b": "y"})["contenders"]["good"]["error"]["value"] == 2.0


def test_perfect_knowledge_covers_what_it_says():
    """A contender that knows the law and the noise: its coverage is nominal, within three Monte-Carlo errors."""
    rng = np.random.default_rng(2)

    def knows(rows, points):
        loss = 1.7 + 400 / points.n**0.34 + 410 / points.d**0.28
        return forecasts.RunForecasts(loss, forecasts.student_ends(np.log(loss), np.full(len(loss), NOISE), 1e6))

    cases = [cases_of.cut_by_compute(table(rng, sizes=200), "far") for _ in range(4)]
    found = [
        scores.case_figures(case, contenders.run(forecasts.Contender("", knows), case.fitted, case.points), 0.0)
        for case in cases
    ]
    count = sum(len(case.scored) for case in cases)
    for level, name in ((0.5, "inside_50"), (0.95, "inside_95")):
        inside = np.average([figures[name] for figures in found], weights=[len(case.scored) for case in cases])
        assert abs(inside - level) < 3 * np.sqrt(level * (1 - level) / count)
    assert np.mean([figures["bias"] for figures in found]) == pytest.approx(0.0, abs=0.1)


def test_the_huber_fit_of_scipy_reaches_the_golden_objective(published):
    """That of Besiroglu et al.'s 240 runs, as other tests know it."""
    runs = fit_contenders.runs()
    found = power_sums.fit({"n": runs["params"], "d": runs["tokens"]}, runs["loss"], power_sums.Objective.HUBER)
    size, delta = np.abs(found.residual), power_sums.DELTA
    value = np.sum(np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)))
    assert value == pytest.approx(0.0010182740178, rel=1e-6)


def test_power_sums_find_the_law_of_runs_without_noise():
    case = cases_of.cut_by_compute(table(np.random.default_rng(0)), "far")
    law = lambda rows: 1.7 + 400 / rows.n**0.34 + 410 / rows.d**0.28
    fitted = cases_of.Rows(**{**vars(case.fitted), "loss": law(case.fitted)})
    for name in ("scipy_huber", "projection"):
        found = contenders.run(contenders.CONTENDERS[name], fitted, case.points)
        np.testing.assert_allclose(found.median, law(case.points), rtol=1e-4)


@pytest.mark.parametrize("name", ["approach2", "gaussian_process", pytest.param("nuts", marks=pytest.mark.slow)])
def test_contenders_forecast_a_law_that_they_suit(name):
    contender = contenders.CONTENDERS[name]
    if contenders.unavailable(contender):
        pytest.skip(contenders.unavailable(contender))
    case = cases_of.cut_by_compute(table(np.random.default_rng(3)), "near")
    figures = scores.case_figures(case, contenders.run(contender, case.fitted, case.points), 0.0)
    # A tenth of the spread of the losses ahead; the noise alone is 1%, of which the mean absolute value is 0.8%.
    assert figures["near_error"] < 2.0 and figures["inside_95"] > 0.7
    assert 2 < figures["width"] < 12  # 3.9 at full knowledge


def test_approach_2_is_for_isoflop_tables():
    case = cases_of.cut_by_compute(table(np.random.default_rng(0)), "far")
    spread = np.geomspace(1e18, 1e20, len(case.fitted))
    with pytest.raises(forecasts.CannotForecast, match="not an iso-FLOP table"):
        contenders.run(
            contenders.CONTENDERS["approach2"], cases_of.Rows(**{**vars(case.fitted), "c": spread}), case.points
        )


def test_forecasts_of_the_earlier_commit_are_found_by_the_rows(monkeypatch):
    case = cases_of.cut_by_compute(table(np.random.default_rng(0)), "far")
    count = len(case.scored)
    entry = {"median": [2.0] * count, "ends": [[[1.0] * count, [3.0] * count]] * 2, "cpu_seconds": 7.0}
    monkeypatch.setattr(heldout_earlier, "kept_forecasts", lambda: {case.fingerprint: entry})
    contender = contenders.CONTENDERS["isoflop_42f1c91"]
    assert contenders.run(contender, case.fitted, case.points).cpu_seconds == 7.0
    with pytest.raises(forecasts.CannotForecast, match="no forecasts of these rows are kept"):
        contenders.run(contender, case.fitted.where(np.arange(20)), case.points)
    entry.clear()
    entry["reason"] = "singular"
    with pytest.raises(forecasts.CannotForecast, match="singular"):
        contenders.run(contender, case.fitted, case.points)


def test_what_is_not_finite_is_refused_with_a_reason():
    case = cases_of.cut_by_compute(table(np.random.default_rng(0)), "far")
    nothing = forecasts.Contender(
        "", lambda rows, points: forecasts.RunForecasts(points.n * np.nan, forecasts.no_ends(1))
    )
    with pytest.raises(forecasts.CannotForecast, match="not finite"):
        contenders.run(nothing, case.fitted, case.points)


def test_a_library_that_fails_is_a_reason_and_a_fault_of_ours_is_not():
    case = cases_of.cut_by_compute(table(np.random.default_rng(0)), "far")

    def fails(rows, points):
        raise ValueError("singular\nmatrix")

    with pytest.raises(forecasts.CannotForecast, match="json: ValueError: singular$"):
        contenders.run(forecasts.Contender("", fails, needs="json"), case.fitted, case.points)
    with pytest.raises(ValueError, match="singular"):
        contenders.run(forecasts.Contender("", fails), case.fitted, case.points)


def test_a_contender_of_few_cases_stands_beside_the_reference():
    made = [table(np.random.default_rng(i), name=f"made{i}", source=f"source{i}") for i in range(2)]
    cases = [cases_of.cut_by_compute(one, "far") for one in made]
    entry = lambda case, factor: {
        "median": (factor * case.scored.loss).tolist(),
        "ends": np.stack([[0.5 * case.scored.loss, 2 * case.scored.loss]] * 2).tolist(),
        "cpu_seconds": 1.0,
    }
    entries = {
        "isoflop": {case.name: entry(case, 1.02) for case in cases},
        "choosy": {cases[0].name: entry(cases[0], 1.01), cases[1].name: {"reason": "too small"}},
    }
    found = heldout.report_of(cases, entries)
    assert list(found["pooled"]["contenders"]) == ["isoflop"] and len(found["pooled"]["cases"]) == 2
    beside = found["beside_reference"]["choosy"]
    assert beside["cases"] == [cases[0].name]
    errors = {name: figures["error"]["value"] for name, figures in beside["contenders"].items()}
    assert errors == pytest.approx({"isoflop": 2.0, "choosy": 1.0})
    text = heldout.section_text("far", found)
    assert "choosy beside isoflop, on the 1 cases" in text and "choosy could not do 1 of 2: too small" in text
    del entries["isoflop"]
    assert list(heldout.report_of(cases, entries)["beside_reference"]["choosy"]["contenders"]) == ["choosy"]


def test_a_table_that_is_dropped_in_is_taken(tmp_path):
    made = table(np.random.default_rng(0))
    write(tmp_path, "mine.csv", columns_of(made))
    write(tmp_path, "curves.csv", {"step": [1.0, 2.0], "loss": [3.0, 2.0]})
    found = tables.read_cases(tmp_path)
    assert [case.name for case in found] == ["mine-far", "mine-near"]
    assert {case.table.source for case in found} == {"mine"} and found[0].table.isoflop
    np.testing.assert_allclose(found[0].scored.loss, made.rows.loss[made.rows.c > BUDGETS[-1] / 9])
    assert list(tables.skipped_files(tmp_path)) == ["curves.csv"]


def test_whole_numbers_do_not_overflow(tmp_path):
    made = table(np.random.default_rng(0))
    rows = [
        f"{int(n)},{int(d)},{loss!r}"
        for n, d, loss in zip(made.rows.n, made.rows.d, made.rows.loss.tolist(), strict=True)
    ]
    (tmp_path / "whole.csv").write_text("\n".join(["N,D,loss", *rows]) + "\n")
    case = tables.read_cases(tmp_path)[0]
    assert case.scored.c.max() == pytest.approx(1e21, rel=1e-6)


def test_the_published_folder_gives_every_table(published):
    cases = tables.read_cases(published)
    surfaces = {case.table.name: case.table for case in cases if case.table.kind is Kind.SURFACE}
    sources = {table.source for table in surfaces.values()}
    assert {
        "chinchilla",
        "llama_3",
        "marin",
        "misfitting",
        "refinedweb",
        "gemstones",
        "overtraining",
        "ladder",
    } <= sources
    assert {"data_constrained", "routed_experts"} <= sources
    assert [name for name, table in surfaces.items() if table.source == "marin"] == [
        "marin_comma",
        "marin_dclm",
        "marin_nemotron",
    ]
    assert len([case for case in cases if case.table.kind is Kind.CURVE]) == 27
    for case in cases:
        assert case.fitted.c.max() < case.scored.c.min()
    gemstones = surfaces["gemstones_hot"].rows
    assert len(gemstones) == 220 and len(set(gemstones.run)) == 22
    assert len(surfaces["chinchilla_scalefit"].rows) == 124 - 6  # without the curators' exact duplicates


def test_curves_and_cuts_are_those_of_the_published_rivals(published):
    """Our least squares of one power law is the published `one_power`: the same points, by another program."""
    cases = [case for case in tables.read_cases(published) if case.table.source == "NMT_curves"]
    for case in cases[:3]:
        found = contenders.run(contenders.CONTENDERS["projection"], case.fitted, case.points)
        assert found.median[0] == pytest.approx(case.kept["one_power"].median, rel=2e-3)


def run_command(monkeypatch, folder, *arguments):
    monkeypatch.setenv("ISOFLOP_PUBLISHED", str(folder))
    monkeypatch.setattr(sys, "argv", ["heldout", *map(str, arguments)])
    return heldout.main()


def test_the_command_keeps_forecasts_and_says_what_could_not_be_done(tmp_path, monkeypatch, capsys):
    folder, work, out = tmp_path / "published", tmp_path / "work", tmp_path / "out.json"
    folder.mkdir()
    write(folder, "mine.csv", columns_of(table(np.random.default_rng(0))))
    refuses = forecasts.Contender("refuses", lambda rows, points: _refuse())
    absent = forecasts.Contender("absent", lambda rows, points: _refuse(), needs="no_such_module")
    chosen = {"best_so_far": contenders.CONTENDERS["best_so_far"], "refuses": refuses, "absent": absent}
    monkeypatch.setattr(heldout, "CONTENDERS", chosen)
    flags = ("--contenders", *chosen, "--cuts", "far", "--work", work, "--out", out)
    assert run_command(monkeypatch, folder, *flags) == 0
    text, progress = capsys.readouterr()
    assert "1 of 1 cases" in text and "best_so_far" in text
    assert "refuses could not do 1 of 1: not today" in text
    assert "absent could not do 1 of 1: no_such_module is not installed" in text
    assert "best_so_far, mine-far: done" in progress
    assert json.loads(out.read_text())["sections"]["far"]["absent"]["refuses"] == {"mine-far": "not today"}
    assert run_command(monkeypatch, folder, *flags) == 0
    assert capsys.readouterr() == (text, "")  # nothing is made twice
    write(folder, "mine.csv", columns_of(table(np.random.default_rng(1))))
    assert run_command(monkeypatch, folder, *flags) == 0
    assert "best_so_far, mine-far: done" in capsys.readouterr().err  # other rows


def _refuse():
    raise forecasts.CannotForecast("not today")


def test_what_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    assert run_command(monkeypatch, tmp_path / "none") == 2
    assert "golden tables are absent" in capsys.readouterr().err
    write(tmp_path, "mine.csv", columns_of(table(np.random.default_rng(0))))
    assert run_command(monkeypatch, tmp_path, "--contenders", "nobody") == 2
    assert "no such contender: nobody" in capsys.readouterr().err
    assert run_command(monkeypatch, tmp_path, "--tables", "theirs") == 2
    assert "no such table; tables: mine" in capsys.readouterr().err


def test_too_many_cpu_seconds_are_a_reason():
    with pytest.raises(forecasts.CannotForecast, match="more than 0.05 CPU seconds"), heldout.cpu_limit(0.05):
        while True:
            pass
