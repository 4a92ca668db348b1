"""The project as a whole: every module imports, every config builds, a wheel holds all packages."""

import ast
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from isoflop import config_file
from isoflop.cli import COMMANDS, module_of
from training.extras import EXTRA_OF

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "configs",
    "training",
    "lm",
    "vision",
    "sweeps",
    "laws",
    "conditions",
    "isoflop",
    "benchmarks",
    "documentation",
)

OF_THE_SITE = ("documentation.hooks", "documentation.notebooks")  # import what the extra `docs` installs


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def test_every_folder_of_a_package_is_one_itself():
    """The import contracts in `pyproject.toml` (`lint-imports`) cover only folders with an `__init__.py`."""
    folders = {path.parent for package in PACKAGES for path in modules(package)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_there_is_one_dynamic_import_of_a_family():
    found = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in modules(package)
        if re.search(r"import_module\(f\"\{\w+\}\.task", path.read_text())
    }
    assert found == {"training/task.py"}


@pytest.mark.parametrize(
    "path",
    [p for package in PACKAGES for p in modules(package)],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_every_module_imports_and_says_what_it_is(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if name == "isoflop.__main__":
        return
    if name in OF_THE_SITE:
        pytest.importorskip("mkdocs")
    module = importlib.import_module(name)
    assert module.__doc__ or not path.read_text().strip(), f"{path} has no docstring"


@pytest.mark.parametrize("path", [p for p in modules("configs") if p.name != "__init__.py"], ids=lambda p: p.stem)
def test_every_config_builds_and_says_its_command(path):
    config = config_file.load(str(path))
    assert f"--config={path.relative_to(ROOT).as_posix()}" in (ast.get_docstring(ast.parse(path.read_text())) or "")
    assert ("design" in config) or config.task in ("lm", "vision")


def test_planning_pulls_in_no_family():
    code = "import sys, sweeps, sweeps.plan; print([m for m in sys.modules if m.split('.')[0] in ('lm', 'vision')])"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_designs_import_no_other_package_and_no_jax():
    code = (
        "import sys, sweeps.design; print([m for m in ('jax', 'lm', 'training', 'ml_collections') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_every_command_has_help_with_an_example():
    for name in COMMANDS:
        assert f"isoflop {name}" in module_of(name).EXAMPLE, name


@pytest.mark.slow
def test_the_speed_benchmark_runs(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "train_step.py", "--shapes", "small", "--contenders", "ours,plain"]
    run = subprocess.run([*command, "--rounds", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (shape,) = json.loads(run.stdout)["results"].values()
    assert set(shape["contenders"]) == {f"{name}/{kept}" for name in ("ours", "plain") for kept in ("default", "kept")}
    assert all(row["tokens_per_second"] > 0 for row in shape["contenders"].values()) and shape["ratios"]


def test_constraints_pin_what_every_extra_asks_for():
    """Of an extra of another package (jax[tpu]) too; each pin suits the Python at hand and the versions asked for."""
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    assert not any(pin.url or pin.extras or str(pin.specifier).count("==") != 1 for pin in pins)
    pinned = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, texts in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        here = [need for need in map(Requirement, texts) if need.marker is None or need.marker.evaluate()]
        asked = [need for need in here if need.name != project["name"]]  # the others are extras of its own
        for package, name in [(need.name, name) for need in asked for name in need.extras]:
            within = [Requirement(text) for text in importlib.metadata.requires(package) or ()]
            asked += [need for need in within if need.marker and need.marker.evaluate({"extra": name})]
        for need in asked:
            version = pinned.get(canonicalize_name(need.name))
            assert version and need.specifier.contains(version), f"{extra}: {need} has {version}"


def test_what_is_imported_is_a_dependency_or_named_with_its_extra():
    """So that a package that is missing is one line that says what to install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        extra: {canonicalize_name(Requirement(text).name) for text in texts}
        for extra, texts in {"": project["dependencies"], **project["optional-dependencies"]}.items()
    }
    distributions = importlib.metadata.packages_distributions()
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        for package in PACKAGES
        if package not in ("benchmarks", "documentation")
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module and not node.level)
        for alias in node.names
    }
    outside = imported - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {"jax", "plotly", "zstandard"} <= outside
    for module in outside & distributions.keys():
        packages = {canonicalize_name(name) for name in distributions[module]}
        assert packages & named[EXTRA_OF.get(module, "")], f"{module}: neither a dependency nor in EXTRA_OF"


def test_a_wheel_ships_the_packages_and_plans_from_an_empty_folder(tmp_path):
    """Built from a copy without what lies beside the sources, installed offline, run as a user would."""
    source, site, empty = (tmp_path / name for name in ("source", "site", "empty"))
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__"))
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-index", "--no-deps"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", tmp_path, source], empty)
    (wheel,) = tmp_path.glob("*.whl")
    run([*pip, "install", *offline, "--no-compile", "--target", site, wheel], empty)
    packages = {"isoflop", "training", "lm", "vision", "sweeps", "laws", "conditions", "configs"}
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == packages | {"bin"}
    assert all((site / path.relative_to(ROOT)).is_file() for package in packages for path in modules(package))

    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    found = "import importlib.util as u, sys; print(*(u.find_spec(name).origin for name in sys.argv[1:]), sep='\\n')"
    origins = run([sys.executable, "-c", found, *packages], empty, environment).splitlines()
    assert len(origins) == len(packages) and all(origin.startswith(str(site)) for origin in origins)
    command = [site / "bin" / "isoflop", "plan", "--config=configs/lm/small.py", "--nomemory", "--json"]
    assert json.loads(run(command, empty, environment))["points"]
    assert list(empty.iterdir()) == []


def run(command, folder, environment=None):
    """What a process prints that ends well."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
