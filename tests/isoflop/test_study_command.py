"""`isoflop study`: every step from a config to a score, once; and the sizes that it adds where the best is at an edge."""

import json
import subprocess
import sys
from pathlib import Path

import compiler_flags
import pandas as pd
import pytest

from isoflop.commands import study

STUDY = """
from ml_collections import ConfigDict
from configs import study
WIDTHS = {1e8: (4, 8, 16), 2e8: (4, 8, 16), 4e8: (8, 16, 32), 8e8: (8, 16, 32)}
def get_config(arg=""):
    base = {"task": "vision", "batch_size": 64, "model": {"name": "mlp", "depth": 1}, "checkpoint": {"final": False}}
    base["data"] = {"dataset": "procedural", "dataset_args": {"size": 8}}
    return study("tiny", ConfigDict(base), WIDTHS, {1e8: 8}, study={"d": "examples"})
"""


def isoflop(*argv):
    return subprocess.run([sys.executable, "-m", "isoflop", *argv], capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_study_goes_from_a_config_to_a_score_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", compiler_flags.ONE_DEVICE)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    Path("study.py").write_text(STUDY)
    command = ("study", "--config=study.py", "--workdir=runs/tiny", "--json")
    first = isoflop(*command)
    assert first.returncode in (0, 1), first.stderr
    said = json.loads(first.stdout)
    folder = Path("runs/tiny")
    assert said["held_out"] == [8e8] and said["scores"][0]["preregistered"] is True
    assert {"fit.json", "prediction.json", "score.json", "report.html", "figures", "sweep"} <= {
        path.name for path in folder.iterdir()
    }
    steps = [line.split()[2] for line in first.stderr.splitlines() if line.startswith("$ isoflop ")]
    assert steps[:3] == ["doctor", "plan", "sweep"] and steps[-3:] == ["score", "plot", "report"]
    assert steps.index("predict") < len(steps) - 1 - steps[::-1].index("sweep")
    frozen, results = (folder / "prediction.json").read_bytes(), sorted(folder.glob("sweep/runs/*/result.json"))
    times = [path.stat().st_mtime_ns for path in results]
    second = isoflop(*command)
    assert second.returncode == first.returncode and "$ isoflop predict" not in second.stderr
    assert (folder / "prediction.json").read_bytes() == frozen
    assert [path.stat().st_mtime_ns for path in results] == times


@pytest.mark.parametrize(
    ("sizes", "following"),
    [
        ([8, 12, 16, 24], 36),
        ([24, 16, 12, 8], 4),  # 5.3, of which 4 is the nearest that the common divisor shares
        ([4, 6], 8),  # 9, halfway between 8 and 10
        ([2, 3], 4),
        ([3, 2], 1),
        ([2, 1], 0),  # nothing below
        ([16], 0),
        ([0.5, 1.0], 2.0),
    ],
)
def test_the_next_size_keeps_the_ratio(sizes, following):
    assert study.beyond(sizes) == following


def test_sizes_are_added_where_the_best_lies_at_an_edge(tmp_path, monkeypatch):
    losses = {
        1e4: {4: 3.0, 8: 2.0, 16: 2.5},
        2e4: {8: 2.0, 16: 1.8, 32: 1.6},
        4e4: {8: 1.0, 12: 1.2, 16: 1.3},
        8e4: {8: 0.1},
    }
    rows = [
        {"status": "completed", "budget": budget, "model.width": width, "loss": loss}
        for budget, found in losses.items()
        for width, loss in found.items()
    ]
    rows.append({"status": "diverged", "budget": 1e4, "model.width": 32, "loss": 0.0})
    table = tmp_path / "runs.parquet"
    pd.DataFrame(rows).to_parquet(table)
    monkeypatch.setattr("sweeps.collect.collect", lambda sweep: table)
    added = study.edges(tmp_path, "budget<8e4", "model.width")
    assert [(point["label.budget"], point["duration.flops"], point["model.width"]) for point in added] == [
        (2e4, 2e4, 64),
        (4e4, 4e4, 4),
    ]
