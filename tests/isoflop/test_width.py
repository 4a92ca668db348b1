"""What a terminal of 80 columns shows: tables that leave columns out and say so, the summary of a sweep, bars."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from isoflop import cli
from isoflop.commands._tables import FittingTable, points_table
from isoflop.commands._watch import screen
from isoflop.waiting import waiting
from sweeps.status import Summary

ROOT = Path(__file__).parents[2]


def shown(renderable, width=80, soft_wrap=True):
    console = Console(width=width, file=io.StringIO(), soft_wrap=soft_wrap)
    console.print(renderable)
    return console.file.getvalue().splitlines()


def test_a_table_leaves_out_what_is_needed_least_and_says_so():
    table = FittingTable(("run", "budget", "N", "D"), [("0123456789ab", "1e+11", "6,588", "1.3e+06")], ("budget", "D"))
    assert "left out" not in "".join(shown(table)) and "1.3e+06" in shown(table)[1]
    narrow = shown(table, 28)
    assert narrow[0].split() == ["run", "N", "D"] and narrow[1].split() == ["0123456789ab", "6,588", "1.3e+06"]
    assert " ".join(narrow[2:]).startswith("left out at this width: budget (--json")
    assert "0123456789ab" in shown(table, 20)[1] and "budget, D" in " ".join(shown(table, 20)[2:])


@pytest.mark.parametrize("width", ["80", "200"])
def test_plan_fits_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    config = ROOT / "configs" / "start" / "study.py"
    assert cli.main(["plan", f"--config={config}", "--memory=false"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[: lines.index("")]
    assert len(table) > 25 and all(len(line) <= int(width) for line in table) and "…" not in "".join(table)
    assert ("left out at this width: N non-emb., 6ND" in "".join(table)) == (width == "80")


def row(i):
    return {
        "run_id": f"{i:012x}", "state": "running", "label": "x" * 30, "params_total": 123_456_789, "flops": 1.23e20,
        "step": 100_000, "steps": 999_999, "train_loss": 2.5, "loss": None, "message": "no room left on the device " * 4,
    }  # fmt: skip


def test_status_and_its_watch_fit_the_terminal():
    rows, states = [row(i) for i in range(3)], {"running": 3, "failed": 2, "completed": 1_000_000}
    table = shown(points_table("a sweep", rows, states, 0.5))
    assert all(len(line) <= 80 for line in table[:-1]) and all(f"{i:012x}" in "".join(table) for i in range(3))
    summary = Summary("a sweep", states, 1e22, 2e22, 3e22, 1e13, 5e6, running=rows, failures=rows)
    live = shown(screen(summary), soft_wrap=False)
    assert all(len(line) <= 80 for line in live) and all(f"{i:012x}" in "".join(live) for i in range(3))


def test_a_bar_is_on_terminals_alone(monkeypatch):
    for terminal in (True, False):
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr(sys, "stderr", stream)
        with waiting("fitting"):
            pass
        assert ("fitting" in stream.getvalue()) == terminal


def test_text_is_measured_in_cells():
    assert shown(FittingTable(("a", "b"), [(Text("長い"), "x")], ("a",)), 7)[1].split() == ["長い", "x"]
