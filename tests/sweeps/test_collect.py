"""Collecting again reads only what has changed and gives what a first collection gives; nothing foreign is trusted."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiers import tiered

from benchmarks import reach
from isoflop.cli import main
from sweeps import collect, collect_cache, curves, status, sweep_dir
from training.errors import BadInput
from training.lines import read_metrics

RUNS, LINES = 200, 20
TABLES = ("runs.parquet", "curves.parquet")


@pytest.fixture
def simulated(tmp_path):
    """A sweep of 200 runs, of which 150 have ended, and the ids of all."""
    path = tmp_path / "sweep"
    return path, reach.simulate(path, RUNS, LINES, 150)


def tables(path):
    """The tables of a collection; what is not a number is equal to itself."""
    collect.collect(path)
    return [pq.read_table(path / name).to_pandas() for name in TABLES]


def fresh(path, tmp_path):
    """The tables of a first collection of the same files."""
    copy = tmp_path / "copy"
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns("*.parquet"))
    found = tables(copy)
    shutil.rmtree(copy)
    return found


def same(path, tmp_path):
    for again, first in zip(tables(path), fresh(path, tmp_path), strict=True):
        assert list(again.columns) == list(first.columns)
        assert again.equals(first)
    return again


def resume(run, first, lines, attempt):
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(reach.metrics(lines, 7, attempt, first))


def test_a_later_collection_is_that_of_a_fresh_directory(simulated, tmp_path):
    path, ids = simulated
    runs = path / "runs"
    cut, failed = ids[150:152]
    for run_id in (cut, failed):
        (runs / run_id).mkdir(parents=True)
        (runs / run_id / "config.json").write_text("{}")
        resume(runs / run_id, 1, 5, 0)
    with open(runs / cut / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 60, "att')
    sweep_dir.fail(runs / failed, "no luck", "", "session")
    assert len(same(path, tmp_path)) == 150 * LINES + 10

    for run_id in ids[160:165]:  # new ones have ended
        reach.finish(path, run_id, reach.metrics(LINES, 3))
    with open(runs / cut / "metrics.jsonl", "ab") as file:
        file.write(b"\n")
    resume(runs / cut, 4, LINES - 3, 1)  # resumed at a step that it had already logged
    (runs / failed / "error.json").unlink()
    reach.finish(path, failed, (runs / failed / "metrics.jsonl").read_bytes() + reach.metrics(LINES, 5, 1))
    shutil.rmtree(runs / ids[0])
    (runs / ids[1] / "result.json").unlink()
    (runs / ids[2] / "metrics.jsonl").unlink()
    reach.finish(path, ids[3], reach.metrics(2, 8), loss=9.0, status="diverged")
    lines = same(path, tmp_path)
    assert len(lines) == (150 - 3) * LINES + 2 + (5 + 2) * LINES
    steps = lines[lines.run_id == cut].step.to_list()
    assert steps == [10 * (i + 1) for i in range(LINES)]

    content = json.loads((path / "sweep.json").read_text())  # a grown design in another order, with other labels
    points = {run_id: point | {"labels": {"wave": 2}} for run_id, point in reversed(content["points"].items())}
    (path / "sweep.json").write_text(json.dumps(content | {"points": points}))
    same(path, tmp_path)


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [
        ([10**17, 10**18, 10**19], "double", [1e17, 1e18, 1e19]),
        ([10**17, 3e18], "double", [1e17, 3e18]),
        ([2**53 + 1, 0.5], "double", [2.0**53, 0.5]),
        ([2**63, None, -1], "double", [2.0**63, None, -1.0]),
        ([-(2**63), 2**63 - 1, None], "int64", [-(2**63), 2**63 - 1, None]),
        ([[10**19], {"c": 10**19}], "string", ["[10000000000000000000]", '{"c": 10000000000000000000}']),
        ([10**19, "all"], "string", ["10000000000000000000", "all"]),
        ([10**400, 1], "string", [str(10**400), "1"]),
        ([True, None, False], "bool", [True, None, False]),
        ([None, None], "double", [None, None]),
    ],
)
def test_a_column_holds_numbers_of_any_size(tmp_path, values, kind, wanted):
    rows = [{"run_id": str(i), "budget": value} for i, value in enumerate(values)]
    table = collect._table(tmp_path, rows)
    assert str(table.schema.field("budget").type) == kind and table.column("budget").to_pylist() == wanted


def test_curves_are_what_read_metrics_says(simulated):
    path, ids = simulated
    for i, run_id in enumerate(ids[:20]):
        resume(path / "runs" / run_id, 1 + i, 4, 1)
        resume(path / "runs" / run_id, 3, 2, 2)
    _, found = tables(path)
    wanted = [
        (run_id, *(line[name] for name in curves.SCHEMA.names))
        for run_id in ids
        for line in read_metrics(path / "runs" / run_id)
    ]
    assert [tuple(row) for row in found.itertuples(index=False)] == wanted


def test_only_what_has_changed_is_read(simulated, monkeypatch):
    path, ids = simulated
    read = []
    monkeypatch.setattr(
        curves, "curve", lambda file, curve=curves.curve: read.append(Path(file).parent.name) or curve(file)
    )
    monkeypatch.setattr(sweep_dir, "result", lambda run, result=sweep_dir.result: read.append(run.name) or result(run))
    collect.collect(path)
    assert sorted(read) == sorted([*ids[:150], *ids[:150]])
    read.clear()
    stamps = [(path / name).stat().st_mtime_ns for name in ("curves.parquet", collect_cache.NAME)]
    collect.collect(path)
    assert not read
    assert stamps == [(path / name).stat().st_mtime_ns for name in ("curves.parquet", collect_cache.NAME)]
    assert [row["loss"] for row in status.rows(sweep_dir.read(path))][:150] != [None] * 150 and not read
    reach.finish(path, ids[150], reach.metrics(LINES, 3))
    resume(path / "runs" / ids[7], 5, 3, 1)
    collect.collect(path)
    assert sorted(read) == sorted([ids[7], ids[150], ids[150]])


HARM = [(name, how) for name in (collect_cache.NAME, "curves.parquet") for how in ("delete", "cut", "text", "another")]


@pytest.mark.parametrize("name, damage", tiered(HARM, [HARM[0], HARM[2], HARM[5], HARM[7]]))
def test_what_was_kept_is_read_anew_where_it_is_not_as_it_was_left(simulated, tmp_path, name, damage):
    path, _ = simulated
    wanted = tables(path)
    file = path / name
    if damage == "delete":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "text":
        file.write_text("no table")
    else:
        shutil.copy(path / "runs.parquet", file)
    for found, table in zip(tables(path), wanted, strict=True):
        assert found.equals(table)


def test_several_processes_read_the_same_and_say_what_is_wrong(simulated, monkeypatch):
    path, ids = simulated
    monkeypatch.setattr(curves, "CHUNK_BYTES", 10_000)
    files = [(str(path / "runs" / run_id / "metrics.jsonl"), 2_000) for run_id in ids[:40]]
    alone = list(curves.read(files, 0))
    assert [table.equals(other) for table, other in zip(curves.read(files, 2), alone, strict=True)] == [True] * 40
    Path(files[30][0]).write_text('{"step": 1}\n')
    with pytest.raises(BadInput, match=f"{ids[30]}/metrics.jsonl: line 1 holds no step and attempt"):
        list(curves.read(files, 2))


def test_nothing_in_the_directory_is_imported(simulated, monkeypatch):
    path, ids = simulated
    for name in ("json", "numpy", "pyarrow", "sweeps", "sitecustomize"):
        (path / f"{name}.py").write_text(f"open({str(path / 'executed')!r}, 'w')")
    monkeypatch.chdir(path)
    monkeypatch.setattr(curves, "CHUNK_BYTES", 1)
    files = [(str(path / "runs" / run_id / "metrics.jsonl"), 2_000) for run_id in ids[:4]]
    assert len(list(curves.read(files, 2))) == 4
    assert not (path / "executed").exists()


LINE = '{"step": 1, "attempt": 0, "loss": 2.5, "learning_rate": 0.1, "tokens": 8}'


@pytest.mark.parametrize(
    ("text", "losses"),
    [
        (LINE, [2.5]),  # whole, and not ended
        (LINE + '\n{"step": 2, "att', [2.5]),
        ("\n\n" + LINE + "\r\n\n", [2.5]),
        ("null", None),
        (LINE + "\nnull\n", None),
        (LINE + "\n[1, 2]\n", None),
        (LINE + "\n" + "[" * 100_000 + "\n", [2.5]),
        (LINE + "\n" + "1" * 10_000 + "\n", [2.5]),
        (LINE + "\n" + LINE.replace("2.5", "NaN").replace("1,", "2,") + "\n", [2.5, None]),
        (LINE + "\n" + LINE.replace("2.5", "-Infinity") + "\n", [2.5, None]),
        (LINE + "\n" + LINE.replace("2.5", "1e999") + "\n", [2.5, None]),
        (LINE + "\n" + LINE.replace("2.5", "9" * 400) + "\n", [2.5, None]),
        (LINE + "\n" + LINE.replace("2.5", "null") + "\n", [2.5, None]),
        (LINE + "\n" + LINE.replace('"loss"', '"eval/loss"') + "\n", [2.5]),
        (LINE.replace("}", ', "loss": 3}') + "\n", [3.0]),
        (LINE.replace("2.5", '"two"') + "\n", None),
        (LINE.replace("2.5", "true") + "\n", None),
        (LINE.replace("2.5", '{"a": 1}') + "\n", None),
        (LINE.replace("1,", "1.5,", 1) + "\n", None),
        (LINE.replace("1,", "1e300,", 1) + "\n", None),
        (LINE.replace("1,", "9" * 30 + ",", 1) + "\n", None),
        (LINE + LINE + "\n", []),
        ("\x00" * 1000 + "\n" + LINE + "\n", [2.5]),
        ('{"a":' * 100_000 + "\n" + LINE + "\n", [2.5]),
    ],
)
def test_lines_that_the_engine_does_not_write(tmp_path, text, losses):
    file = tmp_path / "metrics.jsonl"
    file.write_text(text)
    if losses is None:
        with pytest.raises(BadInput, match=r"metrics\.jsonl: (line|step) \d+"):
            curves.curve(file)
    else:
        assert curves.curve(file)["loss"].to_pylist() == losses


def test_the_quick_reader_says_what_the_careful_one_says(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    file, careful, usual = tmp_path / "metrics.jsonl", [], curves.USUAL_CHARACTERS
    monkeypatch.setattr(curves, "parse", lambda *args, parse=curves.parse: careful.append(args) or parse(*args))
    letters = [*'abnul019 "+-.,:{}\nENI', "null", "NaN", "{}", "}\n{", "1e999", '"loss": 1, ', "0"]
    for seed in range(400):
        lines = reach.metrics(12, seed) + reach.metrics(5, seed, 1, int(rng.integers(1, 14)))
        text = lines.decode()
        for _ in range(rng.integers(3)):
            i, letter = int(rng.integers(len(text))), str(rng.choice(letters))
            text = text[:i] + letter + text[i + int(rng.integers(3)) :]
        file.write_text(text)
        found = []
        for letters_of_lines in (usual, b""):  # with no letter that is usual, every line is read with care
            monkeypatch.setattr(curves, "USUAL_CHARACTERS", letters_of_lines)
            try:
                found.append(curves.curve(file).to_pydict())
            except BadInput as error:
                found.append(str(error))
        assert found[0] == found[1], text
    assert 500 < len(careful) < 750


def change(file, **values):
    content = json.loads(file.read_text())
    content.update(values)
    file.write_text(json.dumps(content))


def points(path, change):
    content = json.loads((path / "sweep.json").read_text())
    for point in content["points"].values():
        change(point)
    (path / "sweep.json").write_text(json.dumps(content))


def outward(file, tmp_path):
    """A link out of the sweep directory in the place of a file."""
    elsewhere = tmp_path / "elsewhere"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)


HOSTILE = {
    "a link to a record": (lambda p, r, t: outward(r / "result.json", t), "result.json: a link that leads out"),
    "a link to metrics": (lambda p, r, t: outward(r / "metrics.jsonl", t), "metrics.jsonl: a link that leads out"),
    "a link to a run": (lambda p, r, t: outward(r, t), "a link that leads out of the sweep directory"),
    "a link to all runs": (lambda p, r, t: outward(p / "runs", t), "runs: a link that leads out of the sweep"),
    "a pipe": (lambda p, r, t: [(r / "result.json").unlink(), os.mkfifo(r / "result.json")], "not a plain file"),
    "a pipe for a claim": (
        lambda p, r, t: [(r / "result.json").unlink(), (r / "error.json").write_text("{}"), os.mkfifo(r / "claim")],
        "claim: not a plain file",
    ),
    "a pipe for a plan": (
        lambda p, r, t: [(p / "sweep.json").unlink(), os.mkfifo(p / "sweep.json")],
        "sweep.json: not a plain file",
    ),
    "a link to a plan": (lambda p, r, t: outward(p / "sweep.json", t), "sweep.json: a link that leads out"),
    "a folder": (lambda p, r, t: [(r / "result.json").unlink(), (r / "result.json").mkdir()], "not a plain file"),
    "a huge record": (lambda p, r, t: os.truncate(r / "result.json", 1 << 30), "more than the 4,194,304 that are"),
    "huge metrics": (lambda p, r, t: os.truncate(r / "metrics.jsonl", 1 << 40), "bytes are more than the"),
    "bytes": (lambda p, r, t: (r / "result.json").write_bytes(b"\xff\xfe"), "result.json: not JSON"),
    "deep": (lambda p, r, t: (r / "result.json").write_text("[" * 100_000), "nested more than 32 levels"),
    "deep below": (lambda p, r, t: change(r / "result.json", x=json.loads("[" * 90 + "]" * 90)), "nested more than 32"),
    "a long number": (lambda p, r, t: (r / "result.json").write_text("1" * 10_000), "result.json: not JSON"),
    "another schema": (lambda p, r, t: change(r / "result.json", schema=2), "its schema is 2, this version reads 1"),
    "a status": (lambda p, r, t: change(r / "result.json", status=["\x1b[2J"]), "its status is none of"),
    "no text": (lambda p, r, t: change(r / "result.json", task="\ud800"), "column 'task' is for no table"),
    "post": (lambda p, r, t: change(r / "result.json", post=[{"x": 1}]), "'post' is no list of evaluations"),
    "no labels": (lambda p, r, t: points(p, lambda q: q.update(labels=3)), "sweep.json: damaged (labels of the point"),
    "no flops": (lambda p, r, t: points(p, lambda q: q.update(flops=float("nan"))), "damaged (flops of the point"),
    "flops": (lambda p, r, t: points(p, lambda q: q.update(flops=10**400)), "damaged (flops of the point"),
    "steps": (lambda p, r, t: points(p, lambda q: q.update(steps="\x1b[2J")), "damaged (steps of the point"),
    "deep labels": (
        lambda p, r, t: points(p, lambda q: q["labels"].update(x=json.loads("[" * 90 + "]" * 90))),
        "sweep.json: nested more than 32",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_stranger_made_ends_in_one_line(tmp_path, capsys, name):
    path = tmp_path / "sweep"
    ids = reach.simulate(path, 3, LINES)
    make, message = HOSTILE[name]
    make(path, path / "runs" / ids[1], tmp_path)
    before = sorted(file.name for file in path.iterdir())
    assert main(["collect", str(path)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and len(said) < 1000 and "\x1b" not in said
    assert sorted(file.name for file in path.iterdir()) == before
    for flags in ([], ["--json"], ["--watch"]):
        code = main(["status", str(path), *flags])
        captured = capsys.readouterr()
        assert code in (0, 2) and captured.err.count("\n") == (code == 2)
        assert "\x1b[2J" not in captured.out + captured.err and "Traceback" not in captured.err


def test_a_link_within_the_sweep_is_followed(tmp_path):
    path = tmp_path / "sweep"
    ids = reach.simulate(path, 2, LINES)
    shutil.move(path / "runs" / ids[0], path / "kept")
    (path / "runs" / ids[0]).symlink_to(path / "kept")
    assert [len(table) for table in tables(path)] == [2, 2 * LINES]


def test_tables_replace_links_and_do_not_follow_them(tmp_path):
    path, mine = tmp_path / "sweep", tmp_path / "mine"
    reach.simulate(path, 2, LINES)
    mine.write_text("mine")
    for name in (*TABLES, collect_cache.NAME, f".runs.parquet.{os.getpid()}"):
        (path / name).symlink_to(mine)
    assert [len(table) for table in tables(path)] == [2, 2 * LINES]
    assert mine.read_text() == "mine"


def test_odd_labels_are_kept_and_shown_short(tmp_path, capsys):
    path = tmp_path / "sweep"
    reach.simulate(path, 2, LINES, 1)
    odd = {
        "long": "x" * 1_000_000,
        "nested": {"a": [1, 2]},
        "[red]": "\x1b[2Jno [bold]markup[/bold]",
        "run_id": "../..",
    }
    points(path, lambda point: point.update(labels=odd))
    runs, _ = tables(path)
    assert runs.long[0] == odd["long"] and json.loads(runs.nested[0]) == odd["nested"]
    assert len(runs.run_id[0]) == 12
    assert main(["status", str(path)]) == 0
    shown = capsys.readouterr().out
    assert len(shown) < 5_000 and "\x1b[2J" not in shown and "x" * 50 not in shown


def test_literals_that_are_no_json_are_null(tmp_path, capsys):
    path = tmp_path / "sweep"
    ids = reach.simulate(path, 2, LINES)
    change(path / "runs" / ids[0] / "result.json", loss=float("nan"), loss_sem=float("inf"), wall_seconds=float("-inf"))
    runs, _ = tables(path)
    assert runs.loss.isna().tolist() == [True, False] and runs.loss_sem.isna().tolist() == [True, False]
    capsys.readouterr()
    for keep in (True, False):
        if not keep:
            (path / collect_cache.NAME).unlink()
        assert main(["status", str(path), "--json"]) == 0
        assert [row["loss"] is None for row in json.loads(capsys.readouterr().out)["runs"]] == [True, False]


def test_reading_starts_no_jax():
    code = (
        "import sys, sweeps.collect, sweeps.curves, sweeps.status; print('jax' in sys.modules, 'flax' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
