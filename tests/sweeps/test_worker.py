"""The worker function that every launcher starts, here in the tests' own process."""

import os
import signal

import pytest

from sweeps import design as d, lease, plan as plans, plan_storage, run_batching, sweep_dir, worker, worker_process
from sweeps.worker_job import WorkerJob
from training import run_batch, run_directory, step


@pytest.fixture
def sweep(make, tmp_path):
    return plan_storage.add_points(tmp_path / "study", plans.plan(make(d.axis("seed", (0, 1, 2)))))


def states(sweep):
    return [sweep_dir.state(sweep, run_id) for run_id in sweep.entries]


def served(sweep, **options):
    events = []
    stopped = worker_process.serve(
        WorkerJob(str(sweep.path), tuple(sweep.entries), "session", **options),
        lambda event, **values: events.append((event, values.get("run_id"))),
    )
    return stopped, [event for event in events if event[0] != "progress"]


def test_a_signal_that_comes_too_late_for_a_run_stops_the_worker_after_it(sweep, monkeypatch):
    finish = run_directory.RunDirectory.finish

    def signalled(directory, result):
        os.kill(os.getpid(), signal.SIGTERM)
        finish(directory, result)

    monkeypatch.setattr(run_directory.RunDirectory, "finish", signalled)
    stopped, events = served(sweep)
    assert stopped == signal.SIGTERM and [event for event, _ in events] == ["begin", "end"]
    assert sorted(states(sweep)) == ["completed", "missing", "missing"]
    monkeypatch.undo()
    assert served(sweep)[0] is None and states(sweep) == ["completed"] * 3


def test_a_point_in_which_worker_after_worker_died_is_given_up(sweep, monkeypatch):
    first = next(iter(sweep.entries))
    monkeypatch.setattr(lease, "deaths", lambda run: worker.MAX_DEATHS_OF_A_RUN if run.name == first else 0)
    assert served(sweep)[0] is None
    assert sorted(states(sweep)) == ["completed", "completed", "failed"]
    assert sweep_dir.failure(sweep.run(first))["message"] == "10 workers died in it, one after another"
    monkeypatch.undo()
    worker.work(WorkerJob(str(sweep.path), (first,), "another session"), lambda event, **values: None)
    assert states(sweep) == ["completed"] * 3


def test_what_cannot_be_measured_is_run_alone(sweep, monkeypatch):
    def broken(*given):
        raise RuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(run_batching, "choose_size", broken)
    stopped, events = served(sweep, run_batch=None)
    assert stopped is None and states(sweep) == ["completed"] * 3
    assert [event for event, _ in events] == ["begin", "end"] * 3


def test_what_was_compiled_to_be_measured_is_in_the_first_record(sweep, monkeypatch, tmp_path):
    step.programs.cache_clear()
    monkeypatch.setattr(run_batch, "_reported", set())
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run_batching, "MIN_WORK_RATIO", 0.0)  # whatever measuring costs
    monkeypatch.setattr(run_batching, "MAX_RUNS", 2)
    monkeypatch.setattr(run_batching, "best_batch", lambda batches: batches[1])
    assert served(sweep, run_batch=None)[0] is None
    results = [sweep_dir.result(sweep.run(run_id)) for run_id in sweep.entries]
    assert sorted((result["pack"], result["compiles"]) for result in results) == [(1, 1), (2, 1), (2, 1)]
    assert step.programs.cache_info().misses == len(set(result["pack"] for result in results))


@pytest.mark.parametrize(("runs", "devices", "most"), [(13, 1, 13), (13, 4, 12), (3, 4, 3), (16, 8, 16), (9, 8, 8)])
def test_packs_are_shared_evenly_by_devices(runs, devices, most):
    assert run_batching._even(runs, devices) == most
