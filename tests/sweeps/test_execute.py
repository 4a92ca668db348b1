"""Sweeps that are run by real worker processes: to their end, past failures, through kills and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps import design as d, lease, placement, plan as plans, plan_storage, sweep_dir
from sweeps.execute import execute
from sweeps.launch import Options, local
from sweeps.worker import Queue
from training.errors import BadInput, RunFailed


def launch(plan, path, fake, **options):
    events = []
    view, only = options.pop("view", lambda event: None), options.pop("only", ())

    def seen(event):
        events.append(event)
        view(event)

    return execute(plan, path, only, seen, options=Options(command=fake.WORKER, **options)), events


def results(path):
    return {file.parent.name: json.loads(file.read_text()) for file in path.glob("runs/*/result.json")}


def test_failures_are_recorded_and_the_rest_goes_on_and_nothing_that_ended_runs_again(make, tmp_path, fake):
    good = d.axis("seed", (0, 1))
    bad = ({"data.crash": "no such corpus"}, {"data.nan_at": 20}, {"data.die_at": 5})
    plan = plans.plan(make(d.chain(good, bad), strict=True))
    crash, nan, die = (point.run_id for point in plan.points[-3:])
    path = tmp_path / "study"
    outcome, events = launch(plan, path, fake, workers=1)
    assert outcome["states"] == {"failed": 2, "completed": 2, "diverged": 1}
    assert outcome["ran"] == 3
    said = {failed["run_id"]: failed["message"] for failed in outcome["failed"]}
    assert said == {crash: "RuntimeError: no such corpus", die: "its worker died (SIGKILL: out of memory?) 2 times"}
    assert "RuntimeError: no such corpus" in sweep_dir.failure(path / "runs" / crash)["traceback"]
    ended = results(path)
    assert ended[nan]["status"] == "diverged" and ended[nan]["last_good"]["step"] <= 20
    begun = [event["run_id"] for event in events if event["event"] == "begin"]
    assert sorted(begun) == sorted([*(point.run_id for point in plan.points), die])  # the killer had a second chance

    stamps = {name: (path / "runs" / name / "result.json").stat().st_mtime_ns for name in ended}
    outcome, events = launch(plan, path, fake, workers=1, only=("failed",))
    assert {event["run_id"] for event in events if event["event"] == "begin"} == {crash, die}
    assert outcome["ran"] == 0 and len(outcome["failed"]) == 2
    assert {name: (path / "runs" / name / "result.json").stat().st_mtime_ns for name in ended} == stamps

    outcome, events = launch(plan, path, fake, only=("missing", "interrupted"))
    assert not outcome["workers"] and [event["event"] for event in events] == ["start"]


def test_a_killed_worker_s_run_goes_on_from_its_checkpoint_to_the_same_numbers(make, tmp_path, fake):
    design = d.axis("duration.steps", (60,))
    often = {"checkpoint": {"every_steps": 10}}
    undisturbed, _ = launch(plans.plan(make(design, base=often)), tmp_path / "calm", fake)
    assert undisturbed["states"] == {"completed": 1}
    path, killed = tmp_path / "killed", []

    def kill(event):
        if event["event"] == "progress" and event["step"] > 15 and not killed:
            killed.append(event["run_id"])
            os.kill(int((path / "runs" / event["run_id"] / "lock").read_text()), signal.SIGKILL)

    # Slow enough for a kill to land inside; the pause is no part of what the run is.
    plan = plans.plan(make(design, base=often | {"data": {"pause": 0.05}}))
    outcome, events = launch(plan, path, fake, view=kill)
    assert killed and [event["code"] for event in events if event["event"] == "gone"] == [-signal.SIGKILL, 0]
    assert outcome["states"] == {"completed": 1} and outcome["failed"] == []
    (calm,), (cut,) = results(tmp_path / "calm").values(), results(path).values()
    assert cut["continued_from"] >= 10
    assert [cut[key] for key in ("run_id", "loss", "loss_sem", "steps")] == [
        calm[key] for key in ("run_id", "loss", "loss_sem", "steps")
    ]


@pytest.mark.slow
def test_packs_leave_the_records_that_runs_alone_leave(make, tmp_path, fake, monkeypatch):
    """Of one shape, with a run that diverges and one that fails among them; each shape is compiled once."""
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    seeds = d.product(d.axis("seed", (0, 1, 2)), d.axis("optimizer.learning_rate", (0.05, 0.1)))
    other = ({"seed": 3, "data.crash": "no such corpus"}, {"seed": 4, "data.nan_at": 20}, {"model.size": 9.0})
    sweep = make(d.chain(seeds, other), base={"model": {"size": 8.0}}, strict=True)
    plan = plans.plan(sweep)
    alone, _ = launch(plan, tmp_path / "alone", fake, workers=1, run_batch=1)
    packed, _ = launch(plan, tmp_path / "packed", fake, workers=1, run_batch=8)
    assert packed["states"] == alone["states"] == {"failed": 1, "completed": 7, "diverged": 1}
    assert packed["failed"] == alone["failed"]
    ones, others = results(tmp_path / "alone"), results(tmp_path / "packed")
    assert ones.keys() == others.keys()
    for run_id, one in ones.items():
        found = others[run_id]
        assert (found["status"], found["steps"]) == (one["status"], one["steps"])
        assert one["loss"] is None or found["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert sorted(found["pack"] for found in others.values())[-6:] == [6] * 6
    assert sum(found["compiles"] for found in ones.values()) == 2  # one a distinct shape


def test_a_pack_that_kills_its_worker_is_run_one_by_one(make, tmp_path, fake):
    """What kills depends on the data, which is no part of a shape here, as the memory that runs take is none."""
    points = ({"seed": 0}, {"seed": 1, "log.every": 3}, {"seed": 2})
    plan = plans.plan(make(points))
    path, killed = tmp_path / "study", []

    def kill(event):
        if event["event"] == "begin" and not killed:
            killed.append(1)
            os.kill(workers[0], signal.SIGKILL)

    workers = []
    start = local._Processes._start

    def started(self, index, placement):
        start(self, index, placement)
        workers.append(self._workers[-1].process.pid)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local._Processes, "_start", started)
        outcome, _ = launch(plan, path, fake, workers=1, run_batch=3, view=kill)
    assert outcome["states"] == {"completed": 3} and len(workers) == 2
    assert [found["pack"] for found in results(path).values()] == [1, 1, 1]


@pytest.fixture
def slow_config(tmp_path):
    """A sweep config file whose runs take some seconds each."""
    file = tmp_path / "slow.py"
    file.write_text(
        """
from ml_collections import ConfigDict
from sweeps.design import axis
def get_config(arg=""):
    base = {"task": "fake", "batch_size": 8, "duration": {"steps": 100}, "model": {"size": 4.0}, "data": {"pause": 0.04},
            "log": {"every": 5}}
    return ConfigDict({"base": base, "design": axis("seed", (0, 1, 2))})
"""
    )
    return file


def started(fake, config, path):
    process = subprocess.Popen(
        [*fake.CLI, "sweep", f"--config={config}", f"--workdir={path}", "--workers=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(logged(path)) == 2)
    return process, [int(file.read_text()) for file in path.glob("runs/*/lock")]


def logged(path):
    return [file for file in path.glob("runs/*/metrics.jsonl") if file.stat().st_size > 400]


def until(condition, seconds=40.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_ctrl_c_saves_everything_and_the_same_command_finishes(tmp_path, fake, slow_config):
    path = tmp_path / "sweep"
    process, workers = started(fake, slow_config, path)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues the sweep" in said and "Traceback" not in said
    assert len(workers) == 2 and not any(map(alive, workers))
    sweep = sweep_dir.read(path)
    states = sorted(sweep_dir.state(sweep, run_id) for run_id in sweep.entries)
    assert states == ["interrupted", "interrupted", "missing"]
    saved = {file.parents[1].name: int(file.name) for file in path.glob("runs/*/checkpoints/[0-9]*")}
    assert len(saved) == 2 and all(step > 0 for step in saved.values())

    again = [
        *fake.CLI,
        "sweep",
        f"--config={slow_config}",
        f"--workdir={path}",
        "--json",
        "--workers=1",
        "--config.base.data.pause=0.0",
    ]
    done = subprocess.run(again, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    payload = json.loads(done.stdout)
    assert payload["states"] == {"completed": 3} and payload["earlier"] == 0
    ended = results(path)
    assert {name: ended[name]["continued_from"] for name in saved} == saved


def test_workers_outlive_a_killed_parent_only_to_save(tmp_path, fake, slow_config):
    path = tmp_path / "sweep"
    process, workers = started(fake, slow_config, path)
    process.kill()
    process.communicate()
    until(lambda: not any(map(alive, workers)))
    sweep = sweep_dir.read(path)
    assert sorted(sweep_dir.state(sweep, run_id) for run_id in sweep.entries)[:2] == ["interrupted", "interrupted"]
    assert len({file.parents[1].name for file in path.glob("runs/*/checkpoints/[0-9]*")}) == 2


def test_a_sweep_without_workers_is_refused_before_anything_is_written(make, tmp_path):
    with pytest.raises(BadInput, match="--workers: must be at least 1"):
        execute(plans.plan(make()), tmp_path / "study", options=Options(workers=0))
    assert not (tmp_path / "study").exists()


def test_workers_that_cannot_start_are_an_error_that_names_the_log(make, tmp_path):
    with pytest.raises(RunFailed, match=r"worker 0: its worker died \(exit code 1\); .*worker-0.log says why"):
        execute(
            plans.plan(make()), tmp_path / "study", options=Options(workers=1, command=(sys.executable, "-c", "1/0"))
        )
    assert "ZeroDivisionError" in (tmp_path / "study" / "logs" / "worker-0.log").read_text()


def test_a_run_held_by_another_process_is_left_to_it(make, tmp_path, fake):
    plan = plans.plan(make())
    sweep = plan_storage.add_points(tmp_path / "study", plan)
    first, second = sweep.entries
    with lease.claim(sweep.run(first)) as held:
        assert held
        outcome, events = launch(plan, sweep.path, fake)
    assert outcome["states"] == {"running": 1, "completed": 1}
    assert [event["run_id"] for event in events if event["event"] == "begin"] == [second]


def test_the_queue_stays_with_a_shape_then_opens_the_largest(make, tmp_path):
    design = d.product(d.axis("model.size", (4, 8, 16)), d.axis("duration.steps", (30, 60)))
    sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(design)))

    def order(mine=(), begun=()):
        groups = {entry.params: entry.compile_key for entry in sweep.entries.values()}
        queue = Queue(dict(sweep.entries), sweep.run, {groups[n] for n in mine})
        for entry in sweep.entries.values():
            if entry.params in begun:
                sweep.run(entry.run_id).mkdir(parents=True, exist_ok=True)
        return [(entry.params, entry.steps) for entry in queue.ranked()]

    assert order() == [(16, 60), (16, 30), (8, 60), (8, 30), (4, 60), (4, 30)]
    assert order(mine=[4])[:2] == [(4, 60), (4, 30)]
    assert order(mine=[4], begun=[16])[2:] == [(8, 60), (8, 30), (16, 60), (16, 30)]


def test_places_are_disjoint_and_never_more_than_points(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(placement, "usable_cores", lambda: [0, 1, 2, 5])
    assert cores(None, [1.0] * 30) == [(0,), (1,), (2,), (5,)]
    assert cores(None, [1.0] * 2) == [(0, 1), (2, 5)]
    assert cores(3, [1.0] * 30) == [(0,), (1, 2), (5,)]
    assert len(cores(6, [1.0] * 30)) == 6
    assert cores(None, []) == [(0, 1, 2, 5)]
    alone = placement.Placement(cores=(0,)).environment()
    assert "--xla_cpu_multi_thread_eigen=false" in alone["XLA_FLAGS"]
    assert placement.Placement(gpu="3").environment() == {"CUDA_VISIBLE_DEVICES": "3"}


def test_a_run_that_is_most_of_the_work_gets_more_cores(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(placement, "usable_cores", lambda: [0, 1, 2, 3])
    assert cores(None, [100.0] + [1.0] * 20) == [(0, 1, 2, 3)]
    assert cores(None, [100.0, 90.0] + [1.0] * 20) == [(0, 1), (2, 3)]
    assert cores(None, [5.0] + [1.0] * 20) == [(0,), (1,), (2,), (3,)]  # it is over before the others are


def test_runs_that_go_on_have_as_many_cores_as_they_began_with(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(placement, "usable_cores", lambda: [0, 1, 2, 5])
    assert cores(None, [1.0], threads=1) == [(0,)]
    assert cores(None, [1.0] * 9, 5_000_000, threads=2) == [(0, 1), (2, 5)]
    assert cores(1, [1.0] * 9, threads=2) == [(0, 1)]
    assert cores(6, [1.0] * 9, threads=1)[:5] == [(0,), (1,), (2,), (5,), (0,)]
    assert cores(None, [1.0], threads=8) == cores(None, [1.0])  # begun on a larger machine


def test_cores_stand_idle_at_the_end_where_more_of_them_would_not_help(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(placement, "usable_cores", lambda: [0, 1, 2, 3])
    assert cores(None, [1.0] * 5, 40_000) == [(0,), (1,), (2,), (3,)]
    assert cores(None, [1.0] * 5, 5_000_000) == [(0, 1, 2, 3)]
    assert cores(None, [1.0] * 40, 5_000_000) == [(0,), (1,), (2,), (3,)]


def test_no_more_workers_than_memory_holds(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(placement, "usable_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(placement.os, "sysconf", {"SC_PHYS_PAGES": 2**20, "SC_PAGE_SIZE": 8192}.__getitem__)  # 8 GiB
    assert cores(None, [1.0] * 30, 40_000_000) == [(0, 1), (2, 3)]
    assert cores(None, [1.0] * 30, 10**9) == [(0, 1, 2, 3)]


def test_one_worker_a_gpu(monkeypatch):
    monkeypatch.setattr(placement, "accelerators", lambda: ("gpu", ("0", "1")))
    assert [place.gpu for place in placement.placements(None, [1.0] * 30, 10**9)] == ["0", "1"]
    assert [place.gpu for place in placement.placements(None, [1.0], 10**9)] == ["0"]


def cores(workers, flops, largest_params=100_000, threads=None):
    return [place.cores for place in placement.placements(workers, flops, largest_params, threads)]
