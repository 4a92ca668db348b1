"""What status says of a sweep: rows and one view, from the files' own times; the commands that show them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import reach
from isoflop.cli import main
from sweeps import collect, status, sweep_dir

HOLD = """
import sys, pathlib
from sweeps import lease
with lease.claim(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def simulated(tmp_path):
    """A sweep of 8 runs of 100 steps: 4 have ended, 1 is cut, 2 have failed, 1 is missing; and the ids."""
    path = tmp_path / "sweep"
    ids = reach.simulate(path, 8, 10, 4)
    for i, run_id in enumerate(ids[:4]):
        reach.finish(path, run_id, reach.metrics(10, i), wall_seconds=10.0, ended_at=1e9 + i)
    for i, run_id in enumerate(ids[4:7]):
        reach.finish(path, run_id, reach.metrics(5, i))
        (path / "runs" / run_id / "result.json").unlink()
    sweep_dir.fail(path / "runs" / ids[5], "ValueError: first", "", "session")
    sweep_dir.fail(path / "runs" / ids[6], "ValueError: second", "", "session")
    return path, ids


@pytest.fixture
def holding(simulated):
    """A process that holds the cut run."""
    path, ids = simulated
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, path / "runs" / ids[4]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    yield holder
    holder.kill()
    holder.wait()


def test_rows_are_the_same_after_a_collection(simulated):
    path, ids = simulated
    rows = status.rows(sweep_dir.read(path))
    collect.collect(path)
    assert status.rows(sweep_dir.read(path)) == rows
    states = ["completed"] * 4 + ["interrupted", "failed", "failed", "missing"]
    assert [row["state"] for row in rows] == states and [row["run_id"] for row in rows] == ids
    assert [row["step"] for row in rows] == [100] * 4 + [50] * 3 + [0]
    assert rows[0]["seconds"] == 10 and rows[0]["at"] == 1e9 and rows[0]["rung"] == 0
    assert rows[5]["message"] == "ValueError: first" and rows[4]["train_loss"] > 2 and rows[4]["loss"] is None


def test_a_run_that_ended_again_is_read_again(simulated):
    path, ids = simulated
    ended = status.collected_records(path)
    sweep = sweep_dir.read(path)
    status.rows(sweep, ended)
    reach.finish(path, ids[1], reach.metrics(10, 1), loss=7.25, wall_seconds=123.456)
    assert status.rows(sweep, ended)[1]["loss"] == 7.25


def test_a_view_goes_by_the_times_of_the_records(simulated, holding):
    path, ids = simulated
    sweep = sweep_dir.read(path)
    seen = status.summarize(sweep, status.rows(sweep))
    flops = [entry.flops for entry in sweep.entries.values()]
    assert seen.states == {"missing": 1, "running": 1, "failed": 2, "completed": 4}
    assert seen.flops_done == sum(flops[:4]) and seen.flops_total == sum(flops)
    assert seen.flops_spent == pytest.approx(sum(flops[:4]) + sum(flops[4:7]) / 2)
    assert seen.rate == pytest.approx(sum(flops[:4]) / 40)
    assert seen.eta == pytest.approx((flops[4] / 2 + flops[7]) / seen.rate)  # one run at a time
    assert [row["run_id"] for row in seen.running] == [ids[4]]
    assert [row["run_id"] for row in seen.failures] == [ids[6], ids[5]]  # the newest first
    assert not seen.over


def test_before_a_run_has_ended_the_running_ones_say_how_fast(simulated, holding):
    path, ids = simulated
    for run_id in ids[:4]:
        (path / "runs" / run_id / "result.json").unlink()
    sweep = sweep_dir.read(path)
    seen = status.summarize(sweep, status.rows(sweep))
    seconds = json.loads((path / "runs" / ids[4] / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
    assert seen.rate == pytest.approx(sweep.entries[ids[4]].flops / 2 / seconds)


def test_watch_goes_on_until_nothing_is_left_to_run(simulated, tmp_path):
    path, ids = simulated
    said = tmp_path / "said"
    command = [sys.executable, "-m", "isoflop", "status", str(path), "--watch", "--interval=0.2"]
    with open(said, "w") as out:
        process = subprocess.Popen(command, stdout=out)
    deadline = time.monotonic() + 60
    while said.read_text().count("\n") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    for run_id in (ids[4], ids[7]):
        reach.finish(path, run_id, reach.metrics(10, 1))
    assert process.wait(60) == 0
    lines = said.read_text().splitlines()
    assert "sweep reach: 1 missing, 1 interrupted, 2 failed, 4 completed" in lines[0]
    assert "sweep reach: 2 failed, 6 completed" in lines[-1] and "FLOP/s a run" in lines[-1]
    assert not list(path.glob("*.parquet"))  # it has only read


def test_watch_on_a_terminal_is_a_summary(simulated, monkeypatch, capsys, holding):
    path, ids = simulated
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    looks = []

    def interrupted(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    assert main(["status", str(path), "--watch", "--interval=7"]) == 0
    shown = capsys.readouterr().out
    assert looks == [7, 7, 7]
    for text in ("8 runs", "4 completed", "FLOPs spent", "left", ids[4], "50/100", "ValueError: second"):
        assert text in shown
    assert ids[0] not in shown


def test_a_large_sweep_is_shown_whole_only_where_that_is_asked_for(tmp_path, capsys):
    path = tmp_path / "sweep"
    ids = reach.simulate(path, 120, 3, 110)
    sweep_dir.fail(path / "runs" / ids[115], "no luck", "", "session")
    assert main(["status", str(path)]) == 0
    shown = capsys.readouterr().out
    assert [run_id in shown for run_id in ids] == [i == 115 for i in range(120)]
    assert "119 of 120 rows are not shown (--all shows them)" in shown and "110 completed" in shown
    assert main(["status", str(path), "--all"]) == 0
    shown = capsys.readouterr().out
    assert all(run_id in shown for run_id in ids) and "not shown" not in shown
    assert main(["status", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 120


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--watch", "--json"], "leave out --json"),
        (["--watch", "--all"], "leave out --all"),
        (["--watch", "--interval=0"], "--interval: must be from 0.1"),
        (["--watch", "--interval=nan"], "--interval: must be from 0.1"),
    ],
)
def test_flags_that_do_not_go_together(simulated, capsys, flags, message):
    assert main(["status", str(simulated[0]), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    out = tmp_path / "reach.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.reach",
        "--runs=20",
        "--lines=5",
        f"--out={out}",
        f"--folder={tmp_path}",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    stages = json.loads(out.read_text())["stages"]
    assert {"plan", "collect_first", "collect_again", "collect_after_10_runs", "status"} <= stages.keys()
    assert all(stage["peak_bytes"] > 0 for stage in stages.values() if "cpu_seconds" in stage)


def test_points_are_chosen_by_states_labels_and_overrides(simulated, capsys):
    path, ids = simulated

    def chosen(*where):
        assert main(["status", str(path), "--json", *(f"--where={text}" for text in where)]) == 0
        payload = json.loads(capsys.readouterr().out)
        assert sum(payload["states"].values()) == len(payload["runs"])
        return [ids.index(row["run_id"]) for row in payload["runs"]]

    assert chosen("state == 'failed'") == [5, 6]
    assert chosen("rung >= 2 and state == 'completed'") == [2, 3]
    assert chosen("rung >= 2", "loss > 0") == [2, 3]
    assert chosen("`model.size` == 80000", "seed == 0") == [3]
    assert main(["status", str(path), "--where=stat == 'failed'"]) == 2
    assert "did you mean 'state'" in capsys.readouterr().err
