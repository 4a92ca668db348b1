"""Runs of several base configs in one sweep directory: told apart in the tables, and said in one line."""

import json

import pyarrow.parquet as pq
import pytest

from isoflop.cli import main
from sweeps import base_configs, collect, design as d, plan as plans, plan_storage, status, sweep_dir
from training import loop

GRID = d.product(d.axis("model.size", (4, 8)), d.axis("duration.steps", (30, 60)))


@pytest.fixture
def grow(make, tmp_path):
    """Add the points of the grid over a base to one sweep directory, and train them."""

    def add(train=True, design=GRID, **base):
        sweep = plan_storage.add_points(tmp_path / "study", plans.plan(make(design, base=base)))
        for entry in sweep.entries.values() if train else ():
            loop.run(plan_storage.run_config(sweep, entry), sweep.run(entry.run_id), extra={"sweep": sweep.name})
        return sweep

    return add


def test_a_change_of_the_base_becomes_a_column_to_select_by(grow, capsys):
    first = grow()
    assert base_configs.compare(first).warning() is None and not base_configs.compare(first).differing
    both = grow(optimizer={"weight_decay": 0.3})
    old = next(iter(first.bases))
    (new,) = both.bases.keys() - {old}
    runs = pq.read_table(collect.collect(both.path)).to_pandas()
    assert dict(runs.groupby("base_config").size()) == {old: 4, new: 4}
    assert set(runs[runs.base_config == new]["optimizer.weight_decay"]) == {0.3}
    assert 0.3 not in set(runs[runs.base_config == old]["optimizer.weight_decay"])
    assert set(runs[runs.base_config == old].run_id) == set(first.entries)

    warning = base_configs.compare(both).warning()
    default = json.dumps(first.bases[old]["optimizer"]["weight_decay"])
    assert warning == (
        f"the runs are of 2 base configs, {old} (4 runs), {new} (4 runs), which differ in optimizer.weight_decay "
        f"({default}, 0.3): tell them apart by the column base_config"
    )
    for command in ("collect", "status"):
        assert main([command, str(both.path)]) == 0
        assert f"warning: {warning}" in " ".join(capsys.readouterr().out.split())
        assert main([command, str(both.path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["warnings"] == [warning]


def test_a_fit_of_two_base_configs_names_what_differs(grow, tmp_path, capsys):
    """Runs of the other base are not repetitions: the change is named, and the column selects one of the bases."""
    old = next(iter(grow().bases))
    both = grow(optimizer={"weight_decay": 0.3})
    fit = ["fit", str(both.path), "--law=power_c", "--resamples=0", "--json", f"--out={tmp_path / 'fit.json'}"]
    capsys.readouterr()

    def warned(*words):
        assert main([*fit, *words]) == 0
        report = json.loads(capsys.readouterr().out)
        return report["n_runs"], " ".join(warning["text"] for warning in report["warnings"])

    n_runs, texts = warned()
    assert n_runs == 4
    assert "differ in weight_decay, base_config, optimizer.weight_decay, which law 'power_c' does not read" in texts
    n_runs, texts = warned(f"--where=base_config == '{old}'")
    assert n_runs == 4 and "differ in" not in texts


def test_what_no_result_depends_on_makes_no_other_base(grow):
    grow(train=False)
    larger = d.product(d.axis("model.size", (16,)), d.axis("duration.steps", (30,)))
    grown = grow(train=False, design=larger, log={"every": 7}, checkpoint={"every_steps": 10})
    assert len(grown.bases) == 2 and len(grown.entries) == 5
    compared = base_configs.compare(grown)
    assert compared.warning() is None and len(set(compared.of_run.values())) == 1


def test_a_seed_of_the_base_makes_repetitions(grow):
    grow(train=False)
    assert base_configs.compare(grow(train=False, seed=1)).warning() is None


def test_a_key_that_every_point_overrides_makes_no_difference(grow):
    grow(train=False)
    other = grow(train=False, design=d.product(GRID, d.axis("optimizer.weight_decay", (0.2,))))
    compared = base_configs.compare(other)
    assert compared.warning() is None  # the bases are one; the overrides are columns already
    both = grow(train=False, design=d.product(GRID, d.axis("optimizer.clip", (2.0,))), optimizer={"name": "sgd"})
    assert list(base_configs.compare(both).differing) == ["optimizer.name"]


def test_keys_of_another_version_make_no_difference(grow):
    sweep = grow(train=False, optimizer={"weight_decay": 0.3})
    sweep = grow(train=False)
    file = sweep.path / "sweep.json"
    content = json.loads(file.read_text())
    for base in content["bases"].values():
        base["optimizer"]["weight_decay"] = 0.3
    next(iter(content["bases"].values()))["optimizer"]["lookahead"] = True
    file.write_text(json.dumps(content))
    assert base_configs.compare(sweep_dir.read(sweep.path)).warning() is None


def test_a_warning_is_one_line_of_bounded_length(grow):
    grow(train=False)
    for i in range(1, 7):
        many = {"optimizer": {"weight_decay": i / 10, "clip": float(i)}, "data": {"seed": i, "nan_at": 100 + i}}
        sweep = grow(train=False, **many)
    warning = base_configs.compare(sweep).warning()
    assert "\n" not in warning and len(warning) < 600 and "and 1 more key" in warning and "..." in warning


def test_a_directory_without_runs_has_nothing_to_compare(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 2, "name": "none", "bases": {}, "points": {}}))
    sweep = sweep_dir.read(tmp_path)
    assert base_configs.compare(sweep).warning() is None and status.rows(sweep) == []


def test_a_sweep_of_the_format_before_is_read_and_grown(grow):
    sweep = grow(train=False)
    file = sweep.path / "sweep.json"
    content = json.loads(file.read_text()) | {"format": 1}
    content.pop("indifferent")
    for point in content["points"].values():
        point["group"] = point.pop("compile_key")
    file.write_text(json.dumps(content))
    assert sweep_dir.read(sweep.path).entries == sweep.entries
    assert grow(train=False) == sweep
    grown = grow(train=False, design=d.axis("model.size", (16,)))
    assert sweep_dir.read(sweep.path) == grown and json.loads(file.read_text())["format"] == 2
