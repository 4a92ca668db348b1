"""The sweep directory: states as its files say, points only added, tables at any moment, nothing trusted."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from sweeps import collect, design as d, lease, plan as plans, plan_storage, status, sweep_dir
from training import loop
from training.errors import BadInput

HOLD = """
import sys, pathlib
from sweeps import lease
with lease.claim(pathlib.Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def sweep(make, tmp_path):
    plan = plans.plan(make(d.product(d.isoflop((2e4,), (4, 8)), d.axis("seed", (0, 1))), base={"mesh": {"data": 1}}))
    return plan_storage.add_points(tmp_path / "study", plan)


def train(sweep, run_id, **changes):
    config = plan_storage.run_config(sweep, sweep.entries[run_id])
    config.update_from_flattened_dict(changes)
    return loop.run(config, sweep.run(run_id), extra={"sweep": sweep.name, **sweep.entries[run_id].labels})


def test_a_sweep_reads_back_as_it_was_written(sweep):
    again = sweep_dir.read(sweep.path)
    assert again == sweep
    for entry in again.entries.values():
        assert plans.configs.resolve(plan_storage.run_config(again, entry)).derived.run_id == entry.run_id
        assert entry.labels == {"budget": 2e4}


def test_states_are_read_from_files(sweep):
    first, second, third, fourth = sweep.entries
    assert {sweep_dir.state(sweep, run_id) for run_id in sweep.entries} == {"missing"}
    train(sweep, first)
    assert sweep_dir.state(sweep, first) == "completed"
    sweep_dir.fail(sweep.run(second), "no luck", "Traceback ...", "session")
    assert sweep_dir.state(sweep, second) == "failed"
    sweep.run(third).mkdir(parents=True)
    (sweep.run(third) / "config.json").write_text("{}")
    assert sweep_dir.state(sweep, third) == "interrupted"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, sweep.run(fourth)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "True\n"
    assert sweep_dir.state(sweep, fourth) == "running"
    with lease.claim(sweep.run(fourth)) as held:
        assert not held
    holder.kill()
    holder.wait()
    assert sweep_dir.state(sweep, fourth) == "missing"  # the kernel let go
    with lease.claim(sweep.run(fourth)) as held:
        assert held


def test_a_grown_design_adds_points_and_keeps_what_was_there(sweep, make):
    bigger = make(d.label(d.product(d.isoflop((2e4, 4e4), (8, 16)), d.axis("seed", (0,))), wave=2))
    grown = plan_storage.add_points(sweep.path, plans.plan(bigger))
    assert grown == sweep_dir.read(sweep.path)
    assert len(grown.entries) == 4 + 3  # one of the four is the same run
    both = [entry for entry in grown.entries.values() if entry.run_id in sweep.entries and "wave" in entry.labels]
    assert len(both) == 1 and both[0].overrides["model.size"] == 8
    for run_id, entry in sweep.entries.items():
        assert plan_storage.run_config(grown, grown.entries[run_id]) == plan_storage.run_config(sweep, entry)


def test_another_base_makes_other_runs_beside_the_first(sweep, make):
    design = d.product(d.isoflop((2e4,), (4, 8)), d.axis("seed", (0, 1)))
    other = plan_storage.add_points(sweep.path, plans.plan(make(design, base={"optimizer": {"learning_rate": 0.3}})))
    assert len(other.entries) == 8 and len(other.bases) == 2
    assert {plan_storage.run_config(other, entry).optimizer.learning_rate for entry in other.entries.values()} == {
        None,
        0.3,
    }


def test_a_directory_of_something_else_is_refused(sweep, make, tmp_path):
    with pytest.raises(BadInput, match="holds the sweep 'study', not 'other'"):
        plan_storage.add_points(sweep.path, plans.plan(make(name="other")))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="holds a run, not a sweep"):
        plan_storage.add_points(tmp_path / "run", plans.plan(make()))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        plan_storage.add_points(tmp_path / "file", plans.plan(make()))
    with pytest.raises(BadInput, match=r"no sweep in .*sweep.json is missing"):
        sweep_dir.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=99), "not a sweep of format 2"),
        (lambda c: c["points"].update({"../../etc": next(iter(c["points"].values()))}), "'../../etc' is no run id"),
        (lambda c: c.pop("points"), "damaged"),
        (lambda c: next(iter(c["points"].values())).pop("base"), "damaged"),
    ],
)
def test_a_strange_sweep_file_is_refused(sweep, change, message):
    file = sweep.path / "sweep.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        sweep_dir.read(sweep.path)


def test_a_point_that_now_means_another_run_is_refused(sweep):
    file = sweep.path / "sweep.json"
    content = json.loads(file.read_text())
    first = next(iter(content["points"]))
    content["points"][first]["overrides"]["seed"] = 7
    file.write_text(json.dumps(content))
    tampered = sweep_dir.read(sweep.path)
    with pytest.raises(BadInput, match=f"the run {first} is now"):
        plan_storage.run_config(tampered, tampered.entries[first])


def test_collect_on_a_sweep_in_progress(sweep):
    first, second, third, _ = sweep.entries
    runs = collect.collect(sweep.path)
    assert pq.read_table(runs).num_rows == 0
    train(sweep, first)
    sweep_dir.fail(sweep.run(second), "no luck", "", "session")
    sweep.run(third).mkdir(parents=True)
    line = {"step": 1, "attempt": 0, "tokens": 8, "learning_rate": 0.1, "loss": 2.5}
    (sweep.run(third) / "metrics.jsonl").write_text(json.dumps(line) + '\n{"step": 2, "att')
    assert collect.collect(sweep.path) == runs
    rows = {row["run_id"]: row for row in pq.read_table(runs).to_pylist()}
    assert rows.keys() == {first, second}
    done, failed = rows[first], rows[second]
    assert done["status"] == "completed" and done["sweep"] == "study" and done["budget"] == 2e4
    assert done["duration.flops"] == 2e4 and done["seed"] == 0
    assert json.loads(done["versions"])["jax"]
    assert failed["status"] == "failed" and failed["loss"] is None and failed["params_total"] == 4
    curves = pq.read_table(sweep.path / "curves.parquet")
    assert curves.column_names == ["run_id", "step", "tokens", "learning_rate", "loss"]
    lines = curves.to_pylist()
    assert [line["loss"] for line in lines if line["run_id"] == third] == [2.5]
    steps = [line["step"] for line in lines if line["run_id"] == first]
    assert steps == sorted(steps) and steps[0] == 1 and steps[-1] == done["steps"]
    assert not list(sweep.path.glob(".*.parquet*"))


def test_collected_columns_are_those_of_the_design(sweep):
    wanted = """run_id, sweep, task, family, status, seed, params_total, params_non_embedding, params_active,
    flops_per_example_6n, flops_6nd, flops_6nd_non_embedding, flops_exact, tokens, unique_tokens, epochs, examples,
    steps, batch_size, seq_len, vocab_size, peak_lr, warmup_steps, schedule, optimizer, weight_decay, loss, loss_sem,
    train_loss, eval_set, eval_tokens, data_hash, wall_seconds, compile_seconds, tokens_per_second, mfu, device_kind,
    num_devices, git_revision, versions, ended_at"""
    train(sweep, next(iter(sweep.entries)))
    columns = pq.read_table(collect.collect(sweep.path)).column_names
    assert not {name.strip() for name in wanted.split(",")} - set(columns)
    assert len(columns) == len(set(columns))


def test_formats_after_training_are_a_table_of_their_own(make, tmp_path):
    base = {"mesh": {"data": 1}, "quantize": {"post": ("int8", "int3"), "roles": ("matrix", "vector")}}
    sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(base=base)))
    results = [train(sweep, run_id) for run_id in sweep.entries]
    collect.collect(sweep.path)
    rows = pq.read_table(sweep.path / "post.parquet").to_pylist()
    assert [(row["run_id"], row["bits_post"]) for row in rows] == [
        (result["run_id"], bits) for result in results for bits in (8.0, 3.0)
    ]
    for row, result in zip(rows, (r for r in results for _ in range(2)), strict=True):
        assert row["loss_before"] == result["loss"] and row["loss_added"] == row["loss"] - result["loss"]


def test_a_label_that_is_a_number_here_and_a_word_there_is_text(make, tmp_path):
    design = ({"seed": 0, "label.kind": 3}, {"seed": 1, "label.kind": "x"}, {"seed": 2, "label.kind": [1, 2]})
    sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(design)))
    for run_id in sweep.entries:
        sweep_dir.fail(sweep.run(run_id), "", "", "")
    rows = pq.read_table(collect.collect(sweep.path)).to_pylist()
    assert [row["kind"] for row in rows] == ["3", "x", "[1, 2]"]


def test_a_damaged_record_is_named(sweep):
    run = sweep.run(next(iter(sweep.entries)))
    run.mkdir(parents=True)
    (run / "result.json").write_text('{"status": "comp')
    with pytest.raises(BadInput, match=r"result.json: not JSON"):
        collect.collect(sweep.path)


def test_status_rows(sweep):
    first, second, *_ = sweep.entries
    train(sweep, first)
    sweep_dir.fail(sweep.run(second), "no luck", "", "session")
    rows = {row["run_id"]: row for row in status.rows(sweep_dir.read(sweep.path))}
    assert rows[first]["state"] == "completed" and rows[first]["step"] == rows[first]["steps"]
    assert rows[first]["loss"] is not None and rows[first]["budget"] == 2e4
    assert rows[second]["message"] == "no luck"
