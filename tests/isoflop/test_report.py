"""The report page: what it states of a study, what it leaves out, and that nothing in a study can become formats."""

import copy
import dataclasses
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, browser
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure

import laws
from isoflop import cli
from isoflop.report import (
    figures,
    forecast as forecasts,
    formats,
    interval_figures,
    page,
    plotly_primitives,
    study as studies,
)
from laws.plotting import plot_data
from laws.results.report_parts import RejectedBudget
from sweeps.collect import collect
from training.errors import BadInput

BUDGETS = (1e11, 2e11, 4e11, 8e11)
SIZES = (6_000, 12_000, 24_000, 48_000, 96_000)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
EVERY = [
    "prediction",
    "isoflop",
    "compute",
    "allocation",
    "budget",
    "surface",
    "residuals",
    "curves",
    "approaches",
    "law",
    "runs",
    "provenance",
]
VOID = {"meta", "input", "br", "link", "img"}


def loss(n, d):
    return 0.9 + 12 / n**0.35 + 60 / d**0.32


def write_sweep(path, budgets, first=0.0):
    """Run directories on the curve of a known law, with one run that diverged and one that failed."""
    rng, file = np.random.default_rng(0), path / "sweep.json"
    points = json.loads(file.read_text())["points"] if file.exists() else {}
    for budget in budgets:
        for n in SIZES:
            run_id = f"{len(points):012x}"
            run = path / "runs" / run_id
            run.mkdir(parents=True)
            d = budget / (6 * n * (1 + 40 / n**0.4))
            points[run_id] = {
                "base": "b", "overrides": {"model.size": n}, "labels": {"budget": budget, "note": HOSTILE},
                "group": "g", "flops": budget, "params": n, "steps": int(d / 1024),
            }  # fmt: skip
            if len(points) == 4:
                (run / "error.json").write_text(json.dumps({"message": f"no room {HOSTILE}", "at": 0.0}))
                continue
            noisy = float(loss(n, d) * np.exp(rng.normal(0, 0.003)))
            result = {
                "run_id": run_id, "status": "diverged" if len(points) == 9 else "completed", "seed": 0,
                "params_total": n, "tokens": d, "flops_exact": budget, "steps": int(d / 1024), "loss": noisy,
                "train_loss": noisy - 0.02, "wall_seconds": 12.0, "device_kind": "cpu", "num_devices": 1,
                "git_revision": "0123456789abcdef+dirty", "versions": {"jax": "0.10.2"}, "tokenizer": HOSTILE,
                "data_hash": "feed", "ended_at": first + len(points),
            }  # fmt: skip
            (run / "result.json").write_text(json.dumps(result))
            (run / "environment.json").write_text(json.dumps({"python": "3.11", "platform": "Linux"}))
            steps = np.linspace(d / 40, d, 40)
            lines = [{"step": i, "attempt": 0, "tokens": t, "loss": loss(n, t)} for i, t in enumerate(steps)]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {"format": 1, "name": f"trial {HOSTILE}", "bases": {"b": {}}, "points": points}
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study with everything: three budgets fitted, the fourth predicted, then measured and scored."""
    path = tmp_path_factory.mktemp("study")
    write_sweep(path / "sweep", BUDGETS[:3])
    table = collect(path / "sweep")
    fit = laws.load(table).fit(
        "chinchilla", resamples=60, target=BUDGETS[3], curves=laws.load_curves(path / "sweep" / "curves.parquet")
    )
    report = dataclasses.replace(fit.report, command="isoflop fit sweep --target=8e11")
    fit = dataclasses.replace(fit, report=report)
    fit.save(path / "fit.json")
    frozen = laws.freeze(fit, path / "prediction.json", fit_path=path / "fit.json", compute=BUDGETS[3])
    write_sweep(path / "sweep", BUDGETS[3:], first=frozen.created_at)
    score = laws.score(path / "prediction.json", collect(path / "sweep"))
    (path / "score.json").write_text(json.dumps(score.to_dict()))
    return path


@pytest.fixture(scope="module")
def study(folder):
    return studies.load(folder)


@pytest.fixture(scope="module")
def text(study):
    return page.render(study)


class Page(HTMLParser):
    """Elements of a page, its words, and whether every element is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def visible_text(self):
        return " ".join("".join(self.words).split())

    def having(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def sections(text):
    return [attributes["id"] for attributes in Page(text).having("section")]


def drawn(text):
    """The figures of a page, as parsed JSON."""
    return [json.loads(block) for block in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)]


def test_the_page_has_every_section_in_reading_order(text):
    assert sections(text) == EVERY


def test_the_page_is_one_file_that_fetches_nothing(text):
    parsed = Page(text)
    assert len(text.encode()) < 6e6
    assert text.count("* plotly.js v") == 1
    assert not any("src" in attributes for _, attributes in parsed.elements)
    assert {tag for tag, _ in parsed.elements} & {"link", "img", "iframe", "object", "base", "form"} == set()
    assert all(attributes["href"].startswith("#") for attributes in parsed.having("a"))
    (policy,) = [a["content"] for a in parsed.having("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_nothing_in_a_study_becomes_markup(text):
    parsed = Page(text)
    figures_drawn = len(drawn(text))
    assert len(parsed.having("script")) == figures_drawn + 2
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert parsed.visible_text.count("alert(1)") >= 3, "the name, the failure and the tokenizer are shown as text"


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")))
def test_text_of_a_table_comes_back_as_it_was(given_text):
    template = page.environment().from_string('{% import "macros.html" as parts %}{{ parts.table(header, rows) }}')
    element = template.render(header=[given_text], rows=[[given_text]])
    assert [tag for tag, _ in Page(element).elements] == ["div", "table", "thead", "tr", "th", "tbody", "tr", "th"]
    cells = re.findall(r'<th scope="(?:col|row)">(.*?)</th>', element, re.S)
    assert [html.unescape(cell) for cell in cells] == [given_text] * 2


def test_the_headline_and_the_prediction_say_what_the_files_say(folder, text):
    words = Page(text).visible_text
    fit, score = (json.loads((folder / name).read_text()) for name in ("fit.json", "score.json"))
    low, high = fit["intervals"]["derived"]["a"]
    assert f"a = {fit['derived']['a']:.3f} [{low:.3f}, {high:.3f}]" in words
    assert (
        f"{formats.percent(score['abs_rel_error'])} away and {'inside' if score['covered'] else 'outside'} the interval"
        in words
    )
    for naive in score["baselines"].values():
        assert formats.percent(naive["abs_rel_error"]) in words
    for text in [*(warning["text"] for warning in fit["warnings"]), *score["warnings"]]:
        assert text in words
    assert fit["inputs"][0]["sha256"][:16] in words and "isoflop fit sweep --target=8e11" in words


def test_what_a_report_of_a_fit_must_state_is_stated(folder, text):
    words, fit = Page(text).visible_text, json.loads((folder / "fit.json").read_text())
    assert f"{fit['certificate']['n_at_best']} of {fit['certificate']['n_starts']} reached the best objective" in words
    assert "log huber with δ = 0.001, summed over the runs" in words
    assert f"{fit['n_runs']} fitted; " in words and "left out: status is not completed" in words
    assert "N is column params_total (all parameters)" in words and "C is column flops_exact" in words
    assert "beyond the fitted runs in C by a factor 2.00" in words
    for name in ("A", "B", "E", "alpha", "beta"):
        assert formats.number(fit["params"][name], 4) in words


def test_runs_that_failed_or_diverged_are_shown(study, text):
    words = Page(text).visible_text
    assert study.states() == {"completed": 18, "diverged": 1, "failed": 1}
    assert "20 points: 18 completed, 1 diverged, 1 failed." in words
    assert f"000000000003 failed: no room {HOSTILE}" in words
    assert text.count('class="apart"') == 2


def test_points_are_the_fitted_runs_and_the_held_out_ones(study):
    points = study.points
    assert points["fitted"].sum() == study.fit.report.n_runs == 13
    assert sorted(points.loc[~points["fitted"], "c"].unique()) == [BUDGETS[3]]
    assert points["budget"].nunique() == len(BUDGETS)
    p = study.fit.params
    predicted = p["E"] + p["A"] / points["n"] ** p["alpha"] + p["B"] / points["d"] ** p["beta"]
    np.testing.assert_allclose(points["residual"], np.log(points["loss"] / predicted), atol=1e-12)


def test_the_held_out_budget_is_drawn_apart(study):
    traces = figures.isoflop(study).data
    held = [trace for trace in traces if "held out" in (trace.name or "")]
    dots = [trace for trace in held if trace.mode == "markers"]
    assert len(dots) == 1 and set(dots[0].marker.symbol) == {"circle-open"} and len(dots[0].x) == 5
    assert [trace.line.dash for trace in held if trace.mode == "lines"] == ["dash"]
    assert sum(set(t.marker.symbol) == {"circle"} for t in traces if t.mode == "markers" and t.legendgroup) == 3


def test_every_held_out_budget_has_a_row_and_a_mark(study, folder, tmp_path):
    largest = json.loads((folder / "prediction.json").read_text()), json.loads((folder / "score.json").read_text())
    forecast, score = copy.deepcopy(largest)
    forecast["prediction"] |= {"inputs": {"c": 6e11}, "value": 2.5, "interval": [2.25, 2.75]}
    score["predicted"] |= {"loss": 2.5, "interval": [2.25, 2.75]}
    score |= {"measured": {"loss": 2.0, "how": "best run"}, "covered": False, "abs_rel_error": 0.25}
    for name, content in zip(("prediction", "score"), largest, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "prediction_6e+11.json").write_text(json.dumps(forecast))
    (tmp_path / "score_6e+11.json").write_text(json.dumps(score))
    (tmp_path / "fit.json").write_bytes((folder / "fit.json").read_bytes())
    both = dataclasses.replace(study, forecasts=studies.load(tmp_path).forecasts)
    assert [each.compute for each in both.forecasts] == [6e11, BUDGETS[3]] and both.score == study.score
    diamonds, stars = (
        next(trace for trace in figures.compute(both).data if trace.name == name)
        for name in ("frozen prediction", "measured")
    )
    assert list(diamonds.x) == [6e11, BUDGETS[3]] and diamonds.y[0] == 2.5 and stars.y[0] == 2.0
    over = interval_figures.forecasts_over_measured([("a", score)]).data[0]
    assert over.x[0] == pytest.approx(25.0)
    assert (over.error_x.array[0], over.error_x.arrayminus[0]) == pytest.approx((12.5, 12.5))
    bare = dataclasses.replace(both, fit=None, runs=pd.DataFrame(), curves=pd.DataFrame())
    words = " ".join(" ".join(Page(page.render(bare)).words).split())
    assert "6.0×10¹¹ FLOPs 2.5000 [2.2500, 2.7500] 2.0000 25% no" in words
    assert forecasts.prediction(study)["budgets"] == []


def test_curves_of_the_law_pass_through_its_own_predictions(study):
    for trace in figures.isoflop(study).data:
        if trace.mode == "lines":
            n, compute = trace.x[10], BUDGETS[int(trace.legendgroup)]
            d = plot_data.tokens_bought(study.fit, compute, np.array([n]))[0]
            assert trace.y[10] == pytest.approx(study.fit.predict({"n": [n], "d": [d]})[0], rel=1e-9)


def test_the_page_and_the_printed_figures_draw_the_same_numbers(study):
    printed = study.fit.plot.isoflop(Figure().subplots())
    solid = [trace for trace in figures.isoflop(study).data if trace.mode == "lines" and trace.line.dash == "solid"]
    curves = [line for line in printed.lines if "10^" in str(line.get_label())]
    assert len(solid) == len(curves) == 3
    for trace, line in zip(solid, curves, strict=True):
        assert pytest.approx(line.get_xydata()) == np.array([trace.x, trace.y]).T

    printed, page_n = study.fit.plot.optimum(Figure().subplots(1, 2)), figures.allocation(study).data[:3]
    (law,) = [trace for trace in page_n if "forecast (approach 3)" in trace.name]
    line = printed[0].lines[0]
    common = (line.get_xdata() > min(law.x)) & (line.get_xdata() < max(law.x))
    expected = np.interp(np.log(line.get_xdata()[common]), np.log(law.x), np.log(law.y))
    # Medians of draws between the points of another grid.
    assert np.log(line.get_ydata()[common]) == pytest.approx(expected, abs=2e-3)


def titles(figure):
    """The titles of all axes of a figure."""
    return {axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())}


def legend_of(figure):
    """What the legend of a figure names: traces and shapes."""
    traces = {trace.name for trace in figure.data if trace.showlegend is not False}
    return traces | {shape.name for shape in figure.layout.shapes if shape.showlegend}


def test_every_axis_names_its_quantity_and_its_unit(study):
    assert titles(figures.isoflop(study)) == {"parameters N", "loss (nats)"}
    assert titles(figures.compute(study)) == {"training compute C (FLOPs)", "loss (nats)"}
    assert titles(figures.surface(study)) == {"parameters N", "training data D (tokens)"}
    starred = {"compute-optimal N* (parameters)", "compute-optimal D* (tokens)"}
    assert titles(figures.allocation(study)) == {"training compute C (FLOPs)"} | starred
    images = study.fit.report.columns | {"d": "examples"}
    counted_in_images = dataclasses.replace(study.fit, report=dataclasses.replace(study.fit.report, columns=images))
    assert "training data D (examples)" in titles(figures.surface(dataclasses.replace(study, fit=counted_in_images)))


def test_legends_name_all_that_is_drawn(study):
    runs = {"fitted runs", "runs not fitted"}
    assert legend_of(figures.compute(study)) == runs | {
        "learning curves", "95% interval of the mean", "frontier of the law",
        "naive: power law", "naive: best so far", "frozen prediction", "measured",
    }  # fmt: skip
    assert legend_of(figures.residuals(study)) == runs | {"residual s.d."}
    assert legend_of(figures.surface(study)) == runs | {
        "equal loss (nats)", "efficient frontier", "efficient frontier, extrapolated",
        "95% interval of the best split", "best split at 8.0×10¹¹ FLOPs",
    }  # fmt: skip
    budgets = {name for name in legend_of(figures.isoflop(study)) if name.endswith(("FLOPs", "(held out)"))}
    assert len(budgets) == len(BUDGETS)


@pytest.mark.parametrize("draw", [figures.compute, figures.allocation])
def test_what_lies_beyond_the_fitted_runs_is_marked(study, draw):
    panels = len(list(draw(study).select_xaxes()))
    regions = [shape for shape in draw(study).layout.shapes if shape.type == "rect"]
    assert [shape.x0 for shape in regions] == [BUDGETS[2]] * panels
    assert all(shape.x1 > BUDGETS[3] for shape in regions)
    assert [note.text for note in draw(study).layout.annotations] == ["extrapolation →"] * panels


def test_the_frame_of_the_loss_holds_the_law_to_its_end(study):
    figure = figures.compute(study)
    low, high = figure.layout.yaxis.range
    (law,) = [trace for trace in figure.data if trace.name == "frontier of the law"]
    assert low < np.log10(law.y[-1]) < high


def test_many_budgets_have_few_curves_and_a_short_legend(study):
    n, compute = np.tile([1e4, 2e4, 4e4, 8e4], 20), np.repeat(np.geomspace(1e11, 1e14, 20), 4)
    points = pd.DataFrame({"run": range(80), "n": n, "d": compute / 6 / n, "c": compute, "fitted": True})
    many = dataclasses.replace(study)
    many.__dict__["points"] = plot_data.with_residuals_and_budgets(
        points.assign(loss=loss(points["n"], points["d"])), study.fit
    )
    traces = figures.isoflop(many).data
    curves = [trace for trace in traces if trace.mode == "lines"]
    assert len(curves) == len([t for t in traces if t.legendgroup and t.showlegend]) == plot_data.MOST_BUDGETS
    assert sum(len(trace.x) for trace in traces if "<b>run" in str(trace.hovertext)) == 80, "every run is drawn"


def test_budgets_with_one_flaw_are_told_in_one_line(study):
    report, named = study.fit.report, "fewer than 4 sizes"
    flawed = tuple(RejectedBudget(c=c, flaw=named) for c in np.geomspace(1e18, 1e22, 38))
    at_edge = RejectedBudget(c=4.1e19, flaw="the minimum is at the largest size")
    cubic = dataclasses.replace(report.approaches["isoflop_cubic"], rejected=(*flawed, at_edge))
    report = dataclasses.replace(report, approaches=report.approaches | {"isoflop_cubic": cubic})
    words = Page(
        page.render(dataclasses.replace(study, fit=dataclasses.replace(study.fit, report=report)))
    ).visible_text
    assert f"38 budgets from 1.0×10¹⁸ to 1.0×10²² FLOPs: {named}" in words
    assert "4.1×10¹⁹ FLOPs: the minimum is at the largest size" in words


@pytest.mark.parametrize("decades", [0.4, 1, 1.4, 2.5, 4, 7])
def test_a_narrow_panel_has_room_for_its_ticks(decades):
    values = np.geomspace(6e3, 6e3 * 10**decades, 20)
    ticks = np.array(plotly_primitives.axis("parameters N", "n", values)["tickvals"])
    assert 1 <= np.sum((ticks >= values[0]) & (ticks <= values[-1])) <= 8


def test_figures_are_valid_json_and_carry_no_theme(text):
    figures_drawn = drawn(text)
    assert len(figures_drawn) == 9
    for figure in figures_drawn:
        assert figure["data"] and figure["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
        assert figure["layout"]["height"] > 100


def test_a_sweep_directory_without_a_fit_is_a_report_of_its_runs(folder, capsys, tmp_path):
    out = tmp_path / "page.html"
    assert cli.main(["report", str(folder / "sweep"), f"--out={out}", "--json"]) == 0
    payload = json.loads(capsys.readouterr().out)
    assert payload["report"] == str(out) and payload["bytes"] == out.stat().st_size
    assert payload["states"]["completed"] == 18 and not payload["fit"]
    assert sections(out.read_text()) == ["isoflop", "compute", "curves", "runs", "provenance"]
    assert "no fit yet" in Page(out.read_text()).visible_text


def test_a_fit_of_a_strangers_table_is_a_report_of_its_own(folder, tmp_path, capsys):
    table = collect(folder / "sweep")
    frame = laws.load(table)
    lines = [f"{n},{d},{y}" for n, d, y in zip(frame.values["n"], frame.values["d"], frame.loss, strict=True)]
    (tmp_path / "runs.csv").write_text("\n".join(["size,data,final", *lines]))
    fit = laws.load(tmp_path / "runs.csv", n="size", d="data", loss="final").fit("kaplan", resamples=0)
    fit.save(tmp_path / "fit.json")
    assert cli.main(["report", str(tmp_path)]) == 0
    assert "without prediction, score" in capsys.readouterr().out
    text = (tmp_path / "report.html").read_text()
    assert sections(text) == [
        "isoflop",
        "compute",
        "allocation",
        "budget",
        "surface",
        "residuals",
        "approaches",
        "law",
        "runs",
        "provenance",
    ]
    budgets = [float(value) for value in re.findall(r'</th>\s*<td class="num" data-v="([^"]+)">', text)]
    compute = 6 * frame.values["n"] * frame.values["d"]
    assert len(budgets) == len(compute) and min(compute) <= min(budgets) <= max(budgets) <= max(compute)
    assert "none: the fit has no resamples" in Page(text).visible_text
    assert "C is column 6ND (6 N D, for want of a column)" in Page(text).visible_text


def test_the_surface_holds_the_runs_and_the_frontier_of_the_law(study):
    shown = figures.surface(study)
    (contours,) = [trace for trace in shown.data if trace.type == "contour"]
    p, fit = study.fit.params, study.fit
    n, d = np.array(contours.x), np.array(contours.y)[:, None]
    assert np.array(contours.z) == pytest.approx(fit.law.value(p, {"n": n, "d": d}), abs=1e-4)
    assert min(n) < study.points["n"].min() and max(n) > study.points["n"].max(), "held-out runs lie on it as well"
    assert d.min() < study.points["d"].min() and d.max() > study.points["d"].max()
    runs = [trace for trace in shown.data if "<b>run" in str(trace.hovertext)]
    assert sum(len(trace.x) for trace in runs) == len(study.points)
    within, beyond = (trace for trace in shown.data if "efficient frontier" in (trace.name or ""))
    assert (within.line.dash, beyond.line.dash) == ("solid", "dash")
    best = fit.optimal([fit.report.target_flops]).iloc[0]
    assert np.interp(np.log(best.n), np.log(beyond.x), np.log(beyond.y)) == pytest.approx(np.log(best.d), abs=2e-3)


def test_a_law_of_compute_alone_has_no_best_use_of_compute(folder, tmp_path):
    (tmp_path / "sweep").symlink_to(folder / "sweep")
    laws.load(collect(folder / "sweep")).fit("power_offset_c", resamples=0).save(tmp_path / "fit.json")
    text = page.render(studies.load(tmp_path))
    assert sections(text) == ["isoflop", "compute", "residuals", "curves", "law", "runs", "provenance"]
    assert "Loss follows L(C) = E + k / C<sup>p</sup>." in text
    assert "Curves are the fitted law" not in text and "blue frontier" not in text


def test_a_sweep_in_which_nothing_has_ended_is_still_a_page(tmp_path):
    point = {"base": "b", "overrides": {}, "labels": {}, "group": "g", "flops": 1e9, "params": 10, "steps": 5}
    content = {"format": 1, "name": "young", "bases": {"b": {}}, "points": {"0" * 12: point}}
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    assert "1 points: 1 missing." in Page(page.render(studies.load(tmp_path))).visible_text


@pytest.mark.parametrize(
    ("file", "content", "blame"),
    [
        (None, None, "holds no study"),
        ("fit.json", "{", "fit.json"),
        ("fit.json", "{}", "fit.json: not a fit"),
        ("sweep.json", "[]", "sweep.json"),
        ("runs.parquet", "none", "runs.parquet: not a readable table"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_page(tmp_path, capsys, file, content, blame):
    if file:
        (tmp_path / file).write_text(content)
    assert cli.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert blame in error and error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_not_there_and_an_out_that_is_a_folder(folder, tmp_path, capsys):
    with pytest.raises(BadInput, match="no folder"):
        studies.load(tmp_path / "none")
    assert cli.main(["report", str(folder / "sweep"), f"--out={tmp_path}"]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("write", "value", "words"),
    [
        (formats.number, 0.0123456, "0.0123"),
        (formats.number, 1234.5, "1,234"),
        (formats.number, 9.999e5, "999,900"),
        (formats.number, -2.5, "−2.50"),
        (formats.number, 3e-7, "3.00×10⁻⁷"),
        (formats.number, None, "–"),
        (formats.number, float("nan"), "–"),
        (formats.count, 999.6e3, "1.00M"),
        (formats.count, 16_188, "16.2k"),
        (formats.count, 950, "950"),
        (formats.power_of_ten, 5.8e11, "5.80×10¹¹"),
        (formats.duration, 59, "59 s"),
        (formats.duration, 10_800, "3.0 h"),
        (formats.percent, 0.00592, "0.59%"),
        (formats.exponent, -0.0509, "−0.051"),
    ],
)
def test_numbers_are_written_for_people(write, value, words):
    assert write(value) == words


def test_exponents_of_formulas_are_raised():
    assert formats.formula("E + A / N^alpha") == "E + A / N<sup>alpha</sup>"
    assert formats.formula("(Nc / N)^(alpha_N / alpha_D) + 1") == "(Nc / N)<sup>alpha_N / alpha_D</sup> + 1"
    assert formats.formula("<i>^2") == "&lt;i&gt;<sup>2</sup>"


def test_the_slider_begins_at_the_target_and_every_position_is_the_forecast_of_the_fit(study, text):
    (slider,) = [attributes for attributes in Page(text).having("input") if attributes.get("type") == "range"]
    (meta,) = [figure["layout"]["meta"] for figure in drawn(text) if "meta" in figure["layout"]]
    assert int(slider["max"]) + 1 == len(meta["steps"]) and slider["aria-valuetext"] == "8.00×10¹¹ FLOPs"
    assert any(attributes.get("for") == slider["id"] for attributes in Page(text).having("label"))
    for step in (meta["steps"][0], meta["steps"][int(slider["value"])], meta["steps"][-1]):
        forecast = study.fit.forecast(compute=step["x"])
        assert step["y"][0] == pytest.approx(forecast.value, rel=1e-6)
        assert step["loss_interval"] == formats.span(forecast.interval, formats.number, 4)
        assert step["n"] == formats.count(forecast.split.n) and step["d"] == formats.count(forecast.split.d)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_reader_moves_the_slider_by_keyboard_on_a_page_that_asks_for_nothing(text, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(text)
    (meta,) = [figure["layout"]["meta"] for figure in drawn(text) if "meta" in figure["layout"]]
    (tmp_path / "profile").mkdir()
    with browser(tmp_path / "profile") as tab:
        tab.open(file.as_uri())
        tab.until("document.querySelector('#plot-budget .main-svg')")
        tab.evaluate("document.getElementById('budget-input').focus()")
        start = int(tab.evaluate("document.getElementById('budget-input').value"))
        for kind in ("rawKeyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
        step = meta["steps"][start + 1]
        tab.until(f"document.querySelector('#budget [data-step=budget]').textContent === {json.dumps(step['budget'])}")
        for name in ("loss", "loss_interval", "n", "n_interval", "d", "d_interval", "ratio", "distance"):
            assert tab.evaluate(f"document.querySelector('#budget [data-step={name}]').textContent") == step[name]
        spoken = tab.evaluate("document.getElementById('budget-input').getAttribute('aria-valuetext')")
        assert spoken == f"{step['budget']}, {step['distance']}"
        marked = tab.evaluate(
            "(p => p.layout.meta.marked.map(i => [p.data[i].x[0], p.data[i].y[0]]))(document.getElementById('plot-budget'))"
        )
        assert np.allclose(marked, [[step["x"], y] for y in step["y"]])
        assert [address for address in tab.requests if not address.startswith(("file:", "data:", "blob:"))] == []
        for width in (1280, 390):
            tab.look(width, 900, dark=width == 390)
            tab.until(f"document.documentElement.scrollWidth <= {width}")
