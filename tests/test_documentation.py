"""README and docs: short where they must be, every link leads somewhere, every block runs or says why not.

A block marked `bash` or `python` is executed, in the order of its page, in a folder that holds what a checkout holds. One
whose title begins with "parsed" is only read: its commands, flags and configs must exist. A block marked `text` after an
executed one is what it prints: the lines that are shown must be printed in that order, numbers to 3%.
"""

import dataclasses
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from absl import flags as absl_flags

from isoflop import cli
from isoflop.config_file import define_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
# Pages whose blocks another test runs, in part on purpose: what they show is then compared with the code.
RUN_BY = {
    "docs/engine.md": "tests/training/test_docs.py",
    "docs/architectures.md": "tests/training/test_architectures.py",
    "docs/howto/own_law.md": "tests/laws/test_forms.py",
}
QUICK = ("README.md", "docs/tutorials/course_isoflop.md", "docs/howto/python.md")  # run in the fast tier
FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]*)\")?[^\n]*\n(.*?)^```", re.S | re.M)
TOLERANCE = 0.03
ROUNDING = 1e-5  # below it a number is what is left of rounding


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str

    @property
    def run(self) -> bool:
        """Whether it is executed."""
        return self.language in ("bash", "python") and not self.title.startswith("parsed")

    @property
    def lines(self) -> list[str]:
        """Its command lines, without comments."""
        lines = [line.split("  #")[0].strip() for line in self.text.replace("\\\n", " ").splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text())]


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150 and len(text.split()) <= 900


# Links ------------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


# Commands ---------------------------------------------------------------------------------------------------------------


def flags_of(words: list[str]) -> absl_flags.FlagValues:
    """The flags of a command line (without `isoflop`), read as the command itself reads them."""
    command, argv = cli.module_of(words[0]), words[1:]
    values = absl_flags.FlagValues()
    command.define(values)
    for name in ("json", "traceback"):
        if name not in values:
            absl_flags.DEFINE_boolean(name, False, "", flag_values=values)
    if getattr(command, "CONFIG", False):
        argv = define_config(values, argv)
    values(words[:1] + argv)
    return values


def commands_within(line: str) -> list[list[str]]:
    """The isoflop commands of a line, also behind srun or inside the quotes of ssh."""
    words = shlex.split(line)
    if "isoflop" in words:
        return [words[words.index("isoflop") + 1 :]]
    return [shlex.split(word)[1:] for part in words for word in re.findall(r"isoflop [^\"]*", part)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "bash" for b in blocks(page))], ids=name_of
)
def test_commands_flags_and_configs_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in [line for block in blocks(page) if block.language == "bash" for line in block.lines]:
        if line.startswith("make "):
            assert line.split()[1] in targets, line
        for words in commands_within(line):
            assert words[0] in cli.COMMANDS, line
            if not any(
                re.match("--points=|--config=(?!configs/)", word) for word in words
            ):  # files that commands write
                flags_of(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_prose_names_exist(page):
    """Inside backticks: the command, the names of its flags, and the file of its config."""
    for code in re.findall(r"`(isoflop [a-z]+ [^`]+)`", FENCE.sub("", page.read_text())):
        command, *words = shlex.split(code.replace("...", ""))[1:]
        values = absl_flags.FlagValues()
        cli.module_of(command).define(values)
        for word in words:
            flag = re.match(r"--(?:no)?([\w.]+)", word)
            known = flag is None or flag[1].split(".")[0] in {*values, "config", "json", "traceback"}
            assert known or word.removeprefix("--").split("=")[0] in values, f"{code}: {word}"
            if config := re.match(r"--config=(configs/[\w/]+\.py)", word):
                assert (ROOT / config[1]).is_file(), code


# Execution --------------------------------------------------------------------------------------------------------------


def numbers_agree(shown: str, printed: str) -> bool:
    """Whether two words are the same, or the same number to the tolerance, brackets and signs around it included."""
    pattern = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
    if re.sub(pattern, "#", shown) != re.sub(pattern, "#", printed):
        return False
    pairs = zip(re.findall(pattern, shown), re.findall(pattern, printed), strict=True)
    values = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    return all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=ROUNDING) for a, b in values)


def missing(shown: str, printed: str) -> list[str]:
    """The lines of a block that were not printed, in their order."""
    left, absent = iter(printed.splitlines()), []
    for line in [line for line in shown.splitlines() if line.strip() and line.strip() != "..."]:
        words = line.split()
        for candidate in left:
            other = candidate.split()
            if len(other) == len(words) and all(map(numbers_agree, words, other)):
                break
        else:
            absent.append(line)
    return absent


def test_what_was_not_printed_is_found():
    printed = "first 1.00\nloss [2.01, 3e4]\nlast\n"
    assert missing("loss [2.0, 3.01e4]\n...\nlast\n", printed) == []
    assert missing("loss [2.2, 3e4]\n", printed) == ["loss [2.2, 3e4]"]
    assert missing("last\nfirst 1.00\n", printed) == ["first 1.00"]


def checkout(folder: Path) -> None:
    for name in ("configs", "notebooks", "docs"):
        (folder / name).symlink_to(ROOT / name)


def in_a_process(line: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # no fake devices
    words = [sys.executable, "-m", "isoflop", *shlex.split(line)[1:]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def run_page(page: Path, folder: Path, command: Any, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Executes the blocks of a page in order, compares what is shown, and returns the names that its Python leaves.

    Args:
      page: the file.
      folder: the working directory.
      command: runs a line that begins with `isoflop` and returns what it prints.
      capsys: of pytest.
    """
    checkout(folder)
    names: dict[str, Any] = {}
    printed = ""
    for block in blocks(page):
        if block.run and block.language == "bash":
            printed = "".join(command(line) for line in block.lines if line.startswith("isoflop "))
        elif block.run:
            capsys.readouterr()
            exec(compile(block.text, name_of(page), "exec"), names)
            printed = capsys.readouterr().out
        elif block.language == "text" and printed:
            assert missing(block.text, printed) == [], printed
            printed = ""
        else:
            printed = ""
    return names


@pytest.fixture
def page_of(tmp_path, monkeypatch, capsys):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)

    def in_this_process(line: str) -> str:
        assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return lambda name: run_page(ROOT / name, tmp_path, in_this_process, capsys)


def test_the_readme_runs_and_prints_what_it_shows(page_of):
    """`make demo` is run by the gate."""
    page_of("README.md")


def test_the_course_exercise_runs(page_of):
    names = page_of("docs/tutorials/course_isoflop.md")
    found, truth = names["fit"].conf_int(), {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}
    assert all(found.loc[name, "low"] < value < found.loc[name, "high"] for name, value in truth.items())


def test_a_fit_from_python_shows_every_figure(tmp_path, monkeypatch):
    matplotlib.use("agg")
    checkout(tmp_path)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(ROOT / "docs" / "howto" / "python.md")
    names: dict[str, Any] = {}
    exec(block.text.replace('fit("chinchilla")', 'fit("chinchilla", resamples=50)'), names)
    assert names["fit"].report.law == "chinchilla" and (tmp_path / "fit.json").is_file()
    (listed,) = re.findall(r"# also (.*)", block.text)
    plots = {name for name in dir(names["fit"].plot) if not name.startswith("_")}
    assert plots == {"isoflop", *listed.split(", ")}


EXECUTED = [
    page
    for page in PAGES
    if any(block.run for block in blocks(page)) and name_of(page) not in RUN_BY and name_of(page) not in QUICK
]


@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED, ids=name_of)
def test_a_page_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path, lambda line: in_a_process(line, tmp_path), capsys)
