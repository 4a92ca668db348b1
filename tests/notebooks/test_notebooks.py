"""The notebooks run from top to bottom on public names alone, hold no outputs, and state no number that no cell computes."""

import ast
import base64
import importlib
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient

from training import compilation

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PROBE = """import json
print(json.dumps({
    "law": fit.law.name, "a": fit.derived.loc["a"].to_dict(), "measured": measured, "predicted": prediction.value,
    "runs": fit.n_runs, "approaches": approaches["a"].notna().sum().item(), "unseen": unseen,
}))"""


REFITTED = """import json
print(json.dumps({
    "constants": rows.to_dict(), "objectives": values.to_dict(), "exponents": exponents.to_dict("index"),
    "settings": settings.to_dict("index"), "held_out": holdout.mean_abs_rel_error,
    "repeats": repeats.to_dict(), "experts": routed.params.to_dict(),
}))"""


PROPOSED = """import json
print(json.dumps({
    "proposals": {name: proposal.to_dict() for name, proposal in proposals.items()}, "budget": budget,
    "measured": score.measured.to_dict(), "best_size": split.n,
    "preregistered": score.preregistered, "covered": score.covered,
}))"""


FORECAST = """import json
print(json.dumps({
    "forecasts": forecasts.to_dict("index"), "floors": floors.to_dict("index"),
    "forms": residuals.to_dict("index"), "chance": chance, "least": least,
}))"""


COMPARED = """import json
print(json.dumps({
    "multipliers": multipliers.to_dict("index"),
    "exponents": {name: fit.derived.loc["a", "value"] for name, fit in fits.items()},
    "read": blocks["difference"].to_list(), "apart": {name: fit.params.to_dict() for name, fit in laws_apart.items()},
    "taught": taught["loss"].to_list(), "law_says": law_says.tolist(), "post": post.params.to_dict(),
}))"""


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_valid_and_kept_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_states_no_number_of_its_own(path):
    prose = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    prose = re.sub(r"arXiv \d{4}\.\d{5}|`[^`]*`|\$[^$]*\$", "", prose)
    assert re.findall(r"\d+(?:\.\d+)?\s*%|\d+\.\d+|\d{2,}", prose) == []


def beneath_the_public_names(source):
    """What code takes from the packages of this codebase that is not among their public names."""
    packages = {name: importlib.import_module(name) for name in ("laws", "sweeps", "isoflop")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if "." in name.name and name.name.split(".")[0] in packages)
        elif isinstance(node, ast.ImportFrom):
            root, _, below = (node.module or "").partition(".")
            if root in packages:
                public = () if below else getattr(packages[root], "__all__", ())
                yield from (f"{node.module}.{name.name}" for name in node.names if name.name not in public)
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in packages:
                public = getattr(packages[node.value.id], "__all__", ())
                yield from [f"{node.value.id}.{node.attr}"] * (node.attr not in public)
            if node.attr == "predictor" or node.attr.startswith("_"):
                yield f".{node.attr}"


@pytest.mark.parametrize(
    "source",
    [
        "import laws.api",
        "import laws.plotting.style as style",
        "from laws.uses.propose import propose",
        "from laws import plotting",
        "from sweeps.design import isoflop",
        "import laws\nlaws.plotting.style.STYLE",
        "fit.predictor.constants",
        "fit._heading()",
    ],
)
def test_what_is_not_public_is_found(source):
    assert len(list(beneath_the_public_names(source))) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_use_public_names_alone(path):
    source = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    assert re.search(r"^import (laws|isoflop)$", source, re.MULTILINE)
    assert list(beneath_the_public_names(source)) == []


def run(name, probe=None, folder=FOLDER, **environment):
    """A notebook executed in a folder, with a cell of our own at its end."""
    notebook = read(FOLDER / name)
    if probe:
        notebook.cells.append(nbformat.v4.new_code_cell(probe))
    kept = {"JAX_COMPILATION_CACHE_DIR": compilation.folder(), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.2}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in (kept | environment).items():
            patch.setenv(key, str(value))
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.fixture(scope="module")
def executed():
    return run("01_fit_a_law.ipynb", PROBE)


@pytest.fixture(scope="module")
def refitted(published):
    return run("02_published_laws.ipynb", REFITTED, ISOFLOP_PUBLISHED=published)


@pytest.fixture(scope="module")
def proposed():
    return run("03_which_run_next.ipynb", PROPOSED)


@pytest.fixture(scope="module")
def images():
    return run("04_scaling_images.ipynb", FORECAST)


@pytest.fixture(scope="module")
def families():
    return run("05_families.ipynb", COMPARED)


@pytest.mark.slow
def test_a_model_of_ones_own_is_swept_in_few_lines(tmp_path):
    probe = "print(json.dumps([len(sweep.plan), sweep.table.status.tolist(), sweep.fit(resamples=0).n_runs]))"
    notebook = run("06_own_model.ipynb", f"import json\n{probe}", tmp_path)
    code = [cell.source for cell in notebook.cells[:-1] if cell.cell_type == "code"]
    assert sum(bool(line.strip()) for source in code for line in source.splitlines()) < 25
    planned, states, fitted = json.loads(notebook.cells[-1].outputs[0].text)
    assert planned == fitted == len(states) and {*states} == {"completed"}
    assert (tmp_path / "runs" / "Gated" / "sweep.json").exists() and not (FOLDER / "runs").exists()


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def images_of_plots(notebook):
    """How many images each cell shows that draws by ``fit.plot`` alone."""
    drawing = [cell for cell in notebook.cells if re.fullmatch(r"fit\.plot\.\w+\(\);", cell.source)]
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in drawing]


def test_fit_a_law_finds_predicts_and_measures(executed):
    found = json.loads(executed.cells[-1].outputs[0].text)
    runs = pd.read_parquet(FOLDER / "data" / "demo" / "runs.parquet")
    top = runs[runs["budget"] == runs["budget"].max()]
    assert found["law"] == "chinchilla" and found["approaches"] == 5
    assert found["unseen"] == top["budget"].iloc[0]
    assert found["runs"] == (runs["status"] == "completed").sum() - (top["status"] == "completed").sum()
    assert found["measured"] == pytest.approx(top.groupby("params_total")["loss"].mean().min())
    assert found["a"]["low"] < found["a"]["value"] < found["a"]["high"]
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.05)


def test_fit_a_law_shows_its_figures_and_says_nothing_on_the_side(executed):
    images = [base64.b64decode(o.data["image/png"]) for o in outputs(executed) if "image/png" in o.get("data", {})]
    assert len(images) == 4
    assert all(image.startswith(b"\x89PNG") and len(image) > 10_000 for image in images)
    assert images_of_plots(executed) == [1, 1, 1]
    assert [output for output in outputs(executed) if output.get("name") == "stderr"] == []


@pytest.mark.slow
def test_published_laws_come_out_as_published(refitted):
    """The same numbers are those of tests/laws/test_golden.py."""
    found = json.loads(refitted.cells[-1].outputs[0].text)
    ours, theirs = found["constants"]["ours"], found["constants"]["Besiroglu et al."]
    assert ours == pytest.approx(theirs, rel=0.01)
    for runs in found["objectives"]["ours"]:
        ours, *printed = (found["objectives"][who][runs] for who in ("ours", "Besiroglu et al.", "Hoffmann et al."))
        assert ours < min(printed)
    golden = {"kaplan_reproduction": 0.8353, "last_layer_flops": 0.706, "short_warmup": 0.602, "cosine_decay": 0.572}
    for setting, a in {**golden, "tuned": 0.4969}.items():
        assert found["settings"][setting]["a"] == pytest.approx(a, abs=0.003)
    for approach in found["exponents"].values():
        assert approach["a_low"] < 0.514 < approach["a_high"]
    assert found["held_out"] == pytest.approx(0.00678, rel=2e-3)
    assert found["repeats"]["ours"]["objective"] < found["repeats"]["Muennighoff et al."]["objective"]
    assert found["experts"]["a"] == pytest.approx(-0.0835, abs=5e-5)


@pytest.mark.slow
def test_published_laws_are_shown_in_figures(refitted):
    images = [o for o in outputs(refitted) if "image/png" in o.get("data", {})]
    assert len(images) == 11
    assert images_of_plots(refitted) == [1, 1, 1, 1]
    assert [output for output in outputs(refitted) if output.get("name") == "stderr"] == []


def test_without_the_tables_the_notebook_says_so_and_ends(tmp_path):
    notebook = run("02_published_laws.ipynb", ISOFLOP_PUBLISHED=tmp_path / "none")
    (said,) = outputs(notebook)
    assert "tables are absent" in said.text


def test_which_run_next_proposes_within_the_budget_and_scores_the_frozen_prediction(proposed):
    found = json.loads(proposed.cells[-1].outputs[0].text)
    runs = pd.read_parquet(FOLDER / "data" / "demo" / "runs.parquet")
    top = runs[runs["budget"] == runs["budget"].max()]
    for proposal in found["proposals"].values():
        assert proposal["flops"] <= found["budget"] == pytest.approx(top["flops_exact"].sum())
        assert [point["design_role"] for point in proposal["points"]].count("lack of fit") == 2
        error = proposal["expected_error"]
        assert error["after"] < error["isoflop"] < error["before"]
    away = np.abs(np.log(top["params_total"] / found["best_size"]))
    nearest = top[np.isclose(away, away.min())].sort_values("ended_at").iloc[0]
    assert found["measured"]["run"] == nearest["run_id"] and found["measured"]["run_loss"] == nearest["loss"]
    assert found["measured"]["loss"] == pytest.approx(nearest["loss"], rel=0.01)
    assert found["covered"] and found["preregistered"] is None
    said = "".join(output.get("text", "") for output in outputs(proposed))
    assert "was there before the prediction" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs(proposed)) == 1


def test_scaling_images_forecasts_the_budgets_that_were_set_aside(images):
    found = json.loads(images.cells[-1].outputs[0].text)
    tables = {path.stem: pd.read_parquet(path) for path in (FOLDER / "data" / "images").glob("*.parquet")}
    assert set(found["forecasts"]) == {"vit-procedural", "vit-fashion", "resnet-procedural", "resnet-fashion"}
    for name, row in found["forecasts"].items():
        top = tables[name][tables[name]["budget"] == tables[name]["budget"].max()]
        assert row["measured"] == pytest.approx(top["loss"].min())
        assert row["low"] < row["predicted"] < row["high"] and 0 < row["a"] < 1
        assert row["predicted"] == pytest.approx(row["measured"], rel=0.1)
    for name, row in found["floors"].items():
        assert row["the floor"] == pytest.approx(tables[name]["bayes_nats"].iloc[0]) and row["E"] < row["best run"]
    assert found["least"] < found["chance"] == 0.9
    bounded, offset = (found["forms"][name] for name in ("bounded, M4", "power law with an offset"))
    assert bounded["rms of log error"] < offset["rms of log error"]


def test_scaling_images_shows_its_figures_and_says_nothing_on_the_side(images):
    assert sum("image/png" in output.get("data", {}) for output in outputs(images)) == 2
    assert [output for output in outputs(images) if output.get("name") == "stderr"] == []


@pytest.mark.slow
def test_families_are_compared_by_their_laws(families):
    found = json.loads(families.cells[-1].outputs[0].text)
    assert set(found["multipliers"]) == {"lstm", "gated_linear", "encoder_decoder", "moe"}
    for row in found["multipliers"].values():
        assert row["low"] < row["multiplier"] < row["high"]
    moe, lstm = (found["multipliers"][name] for name in ("moe", "lstm"))
    assert lstm["high"] < 1 < moe["low"]
    assert all(0 < a < 1.1 for a in found["exponents"].values())
    assert found["read"][0] < 0 < found["read"][1] < found["read"][-1]  # a decoder gains more from what it has read
    assert 0.1 < found["post"]["gamma_N"] < 1 and 0.1 < found["post"]["gamma_D"] < 1  # longer training stands it less
    assert found["law_says"] == pytest.approx(found["taught"], rel=0.02)
    assert len(found["apart"]) == 3 and all(row["p"] > 0 for row in found["apart"].values())


@pytest.mark.slow
def test_families_show_their_figures_and_say_nothing_on_the_side(families):
    assert sum("image/png" in output.get("data", {}) for output in outputs(families)) == 6
    assert [output for output in outputs(families) if output.get("name") == "stderr"] == []


def test_the_data_of_the_notebooks_are_small_and_name_no_path():
    files = [file for file in (FOLDER / "data").rglob("*") if file.is_file()]
    assert files and sum(file.stat().st_size for file in files) < 1e6
    for file in files:
        text = pd.read_parquet(file).to_json()
        assert not re.search(r"/(home|root|tmp|work|Users)\b", text.replace("\\/", "/")), file
