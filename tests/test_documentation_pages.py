"""Pages that are generated from the code cover it: commands, keys, columns, laws, layers; every page is in the navigation.

The site itself is built and opened in a browser by the slow tests.
"""

import ast
import html
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import browser
import pandas as pd
import pytest
import yaml

import laws
from documentation import api, commands, config_keys, laws_table, packages, record_columns
from isoflop.cli import COMMANDS
from training.identity import flatten

ROOT = Path(__file__).parents[1]
# Functions that make the entries of a record, as dictionaries with constant keys.
RECORDS = (
    *(("training/record.py", "result"), ("training/replicas.py", "record"), ("training/async_sgd.py", "record")),
    *(("training/transforms/__init__.py", "facts"), ("lm/teachers.py", "facts"), ("lm/store.py", "facts")),
    *(("lm/objectives/stream.py", "facts"), ("lm/objectives/pairs.py", "facts"), ("lm/objectives/labels.py", "facts")),
    *(("vision/task.py", "facts"), ("training/classification.py", "summary"), ("training/run_session.py", "_finish")),
)
NOT_IN_RECORDS = {"available_tokens"}  # becomes unique_tokens and epochs


def pages_of_nav() -> list[str]:
    def leaves(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [leaf for part in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(part)]  # type: ignore[union-attr]

    return leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


def test_every_page_is_in_the_navigation_once():
    written = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")}
    found = pages_of_nav()
    assert len(found) == len(set(found))
    assert set(found) == written | notebooks | {"findings/index.md", "changelog.md", "contributing.md"}


def test_every_command_and_flag_is_in_the_reference():
    page = commands.page()
    assert [line.removeprefix("## isoflop ") for line in page.splitlines() if line.startswith("## ")] == list(COMMANDS)
    for name in COMMANDS:
        for flag, _, meaning in commands.flags_of(name):
            assert f"`--{flag}`" in page and meaning, f"{name} --{flag}"


@pytest.mark.parametrize("family", ["engine", "lm", "vision"])
def test_every_key_has_a_meaning(family):
    (_, whole), *_ = config_keys.DECLARED[family]
    keys = config_keys.keys(family)
    assert set(keys) == set(flatten(whole().to_dict()))
    assert [key for key, (_, _, meaning) in keys.items() if not meaning] == [], "a comment beside it in the code"
    assert set(config_keys.MEANINGS[family]) <= set(keys)
    section = config_keys.section(family)
    assert all(f"| `{key}` |" in section for key in keys)


def test_a_comment_beside_a_key_is_its_meaning():
    keys = config_keys.keys("engine")
    assert keys["batch_size"] == ("int", None, "examples a step")
    assert keys["gradient_accumulation_steps"][2].startswith("Micro-batches a step")
    assert "`duration.flops`" in config_keys.section("engine").partition("Exactly one")[2]


def entries(file: str, function: str) -> set[str]:
    """The constant keys of the dictionaries in a function."""
    tree = ast.parse((ROOT / file).read_text())
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    dictionaries = [node for node in ast.walk(found) if isinstance(node, ast.Dict)]
    return {key.value for node in dictionaries for key in node.keys if isinstance(key, ast.Constant)}


def test_every_column_of_a_record_is_in_the_reference():
    known = set(record_columns.meanings()) | NOT_IN_RECORDS
    for file, function in RECORDS:
        assert entries(file, function) <= known, (file, entries(file, function) - known)
    table = pd.read_parquet(ROOT / "notebooks" / "data" / "demo" / "runs.parquet")
    labels = {"budget"}
    columns = {name for name in table.columns if "." not in name} - labels
    old = {"documents_apart"}  # by the name it had when that table was collected
    assert columns - old <= known, columns - old - known


def test_every_law_is_in_the_reference():
    shown = [law.name for _, held in laws_table.themes().values() for law in held]
    assert sorted(shown) == sorted(laws.LAWS)
    page = laws_table.page()
    assert all(f"### `{name}`" in page and law.formula in page for name, law in laws.LAWS.items())


def test_layers_are_drawn_from_the_contracts():
    first, *others = packages.drawings()
    assert first.title == "packages" and [layer for layer in first.layers if "laws" in layer] == [
        ["lm", "vision", "sweeps", "laws"]
    ]
    assert {item.title for item in others} >= {"isoflop", "sweeps", "laws"}
    for item in (first, *others):
        drawn = re.findall(r"<text [^>]*>(.+?)</text>", packages.svg(item))
        assert [html.unescape(name) for name in drawn] == [name for layer in item.layers for name in layer]


def test_the_interface_names_what_is_exported():
    assert {f"laws.{name}" for name in laws.__all__} <= set(api.names())
    assert "sweeps.design.isoflop" in api.names()


# The site ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, its notebooks not executed: `make docs` does that."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is absent (pip install -e '.[docs]')")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"ISOFLOP_DOCS_EXECUTE": "0", "NO_MKDOCS_2_WARNING": "1"}
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    if browser.CHROMIUM is None:
        pytest.skip("no Chromium")
    with browser.browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.slow
def test_the_site_is_whole(site):
    """Warnings were errors, and the build refuses files from elsewhere."""
    text = (site / "llms.txt").read_text()
    links = re.findall(r"^- \[[^]]*\]\(([^)]*)\)", text, re.M)
    assert sorted(links) == sorted(f"{name.removesuffix('.md')}.html" for name in pages_of_nav())
    assert all((site / link).is_file() for link in links)
    assert "isoflop fit" in (site / "reference" / "commands.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", [name.removesuffix(".md") for name in pages_of_nav()])
def test_a_page_fits_its_window_and_asks_for_nothing_from_elsewhere(site, page, name, width):
    page.look(width, 900)
    page.requests.clear()
    page.open(f"file://{site}/{name}.html")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


@pytest.mark.slow
def test_search_finds_a_key(site, page):
    page.look(1280, 900)
    page.open(f"file://{site}/index.html")
    page.evaluate("document.querySelector('.md-search__input').focus()")
    page.type("spike_guard.sigmas")
    page.until("document.querySelectorAll('.md-search-result__item').length > 0")
    results = page.evaluate(
        "[...document.querySelectorAll('.md-search-result__link')].map(link => link.href).join(' ')"
    )
    assert "reference/config.html" in results


@pytest.mark.slow
def test_a_figure_answers_the_mouse(site, page):
    """A run of the report says what it is, and a click in the legend hides a budget."""
    page.look(1280, 900)
    page.open(f"file://{site}/results/demo_report.html")
    page.until("document.querySelector('.js-plotly-plot .scatterlayer path.point')")
    page.evaluate("document.querySelector('.js-plotly-plot').scrollIntoView({block: 'center'})")
    place = "(box => [box.x + box.width / 2, box.y + box.height / 2])(%s.getBoundingClientRect())"
    for shift in itertools.islice(
        itertools.cycle((-30, 0)), 100
    ):  # a figure that is still laid out answers no single movement
        x, y = page.evaluate(place % "document.querySelector('.js-plotly-plot .scatterlayer path.point')")
        page.move(x + shift, y + shift)
        time.sleep(0.3)
        if page.evaluate("document.querySelector('.js-plotly-plot .hovertext')?.textContent.includes('loss')"):
            break
    else:
        pytest.fail("no run says what it is")
    before = page.evaluate("document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length")
    x, y = page.evaluate(place % "document.querySelector('.js-plotly-plot .legendtoggle')")
    page.click(x, y)
    page.until(f"document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length < {before}")
