"""The states of a sweep's points, read from their files alone: a row a point, and a summary of all of them."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeps import base_configs, collect_cache, point_filter, sweep_dir, untrusted_files
from sweeps.untrusted_files import Stamp, number, printable
from training.errors import BadInput
from training.lines import DECODER, NAME

TAIL_BYTES = 4096  # at the end of the metrics, among which the newest line is
RECENT_RUNS = 100  # that have ended last, from which the present speed is taken
ERROR_BYTES = 1 << 20  # read of an `error.json`, at most

Ended = dict[str, tuple[Stamp, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """A sweep as a whole.

    Attributes:
        name: of the sweep.
        states: runs by state, in the order of `sweep_dir.STATES`.
        flops_done: planned FLOPs of the runs that have ended; steps that branches share with their trunk count once.
        flops_total: planned FLOPs of all runs, likewise.
        flops_spent: FLOPs of the steps that were made, of ended and begun runs.
        rate: FLOP/s of one run, by the records' own times; None before there are any.
        eta: seconds left for as many runs at a time as are running now; None where none is, or before there is a rate.
        running: rows of the runs that are running, the one that has most left first.
        failures: rows of the runs that have failed, the newest first.
        flags: ended runs by the rule that their curve meets, of `training.curve_flags`.
    """

    name: str
    states: dict[str, int]
    flops_done: float
    flops_total: float
    flops_spent: float
    rate: float | None
    eta: float | None
    running: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    flags: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing is left to run: every point has ended, or has failed."""
        return not self.states.keys() & {"missing", "interrupted", "running"}


def rows(sweep: sweep_dir.Sweep, ended: Ended | None = None) -> list[dict[str, Any]]:
    """State, labels, size, steps done, losses, times, and the message of a failure of each point.

    Args:
        sweep: the sweep directory.
        ended: records read before; those read now are added. By default those of the last collection.

    Returns:
        A row a point: `seconds` are those that it took so far, `at` is when it ended or failed (seconds since 1970).

    Raises:
        BadInput: a record is damaged, or a link leads out of the sweep directory.
    """
    ended = collected_records(sweep.path) if ended is None else ended
    begun = untrusted_files.folders(sweep.path, sweep.entries)
    table = []
    for run_id, entry in sweep.entries.items():
        row = {
            "run_id": run_id,
            "state": "missing",
            **entry.labels,
            "params_total": entry.params,
            "flops": entry.own_flops,
        }
        row |= {"run_id": run_id, "state": "missing", "step": 0, "steps": entry.steps, "loss": None, "train_loss": None}
        row["curve_flag"] = None
        row |= {"trunk": entry.trunk, "fork_step": entry.fork_step, "flops_exact": entry.flops} if entry.trunk else {}
        row |= {"seconds": None, "at": None, "message": None}
        if run_id in begun:
            row |= _progress(sweep, run_id, ended)
        table.append(row)
    return table


def select(
    sweep: sweep_dir.Sweep, table: list[dict[str, Any]], conditions: Sequence[str]
) -> tuple[sweep_dir.Sweep, list[dict[str, Any]]]:
    """The points that meet conditions on their rows and overrides (`sweeps.point_filter`), as a sweep, and their rows.

    Args:
        sweep: the sweep.
        table: its rows, as `rows` returns them.
        conditions: as in "budget <= 1e11" or "state == 'failed'".

    Raises:
        BadInput: a condition is wrong.
    """
    if not conditions:
        return sweep, table
    bases = {name: base_configs.flatten(base) for name, base in sweep.bases.items()}
    keys = dict.fromkeys(key for entry in sweep.entries.values() for key in entry.overrides)
    described = []
    for row in table:
        entry = sweep.entries[row["run_id"]]
        base = bases.get(entry.base, {})
        described.append({key: base.get(key) for key in keys} | dict(entry.overrides) | row)
    chosen = [table[i] for i in point_filter.select(described, conditions)]
    entries = {row["run_id"]: sweep.entries[row["run_id"]] for row in chosen}
    return dataclasses.replace(sweep, entries=entries), chosen


def collected_records(root: Path) -> Ended:
    """The records that a collection of the sweep directory has read, with the stamps of their files."""
    ended: Ended = {}
    for run_id, run in collect_cache.read(root).runs.items():
        if run.result is not None and run.record is not None:
            ended[run_id] = run.result, untrusted_files.record(run.record, root / collect_cache.NAME)
    return ended


def summarize(sweep: sweep_dir.Sweep, table: list[dict[str, Any]]) -> Summary:
    """The summary of the rows of a sweep."""
    counts = Counter(row["state"] for row in table)
    running = [row for row in table if row["state"] == "running"]
    ended = [row for row in table if row["state"] in sweep_dir.ENDED]
    flops_left = sum(
        row["flops"] - _flops_spent(row) for row in table if row["state"] not in (*sweep_dir.ENDED, "failed")
    )
    rate = _rate(sorted(ended, key=lambda row: row["at"] or 0)[-RECENT_RUNS:]) or _rate(running)
    return Summary(
        name=sweep.name,
        states={state: counts[state] for state in sweep_dir.STATES if counts[state]},
        flags=dict(sorted(Counter(row["curve_flag"] for row in table if row["curve_flag"]).items())),
        flops_done=sum(row["flops"] for row in ended),
        flops_total=sum(row["flops"] for row in table),
        flops_spent=sum(_flops_spent(row) for row in table),
        rate=rate,
        eta=number(flops_left / (rate * len(running))) if rate and running else None,
        running=sorted(running, key=lambda row: _flops_spent(row) - row["flops"]),
        failures=sorted((row for row in table if row["state"] == "failed"), key=lambda row: -(row["at"] or 0)),
    )


def last_line(run: Path, root: Path) -> dict[str, Any]:
    """The newest line of a run's metrics that has a loss, from the end of the file alone."""
    file = run / NAME
    if untrusted_files.stamp(file, root, untrusted_files.METRICS_BYTES) is None:
        return {}
    with open(file, "rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = opened.read().split(b"\n")
    for text in reversed(lines):
        try:
            line = DECODER.decode(text.decode())
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and "loss" in line:
            return line
    return {}


def _progress(sweep: sweep_dir.Sweep, run_id: str, ended: Ended) -> dict[str, Any]:
    """What the files of a run add to its row; a record that is read is added to `ended`."""
    run = sweep.run(run_id)
    folder = f"{sweep.path}/runs/{run_id}"
    stamp = untrusted_files.stamp(f"{folder}/result.json", sweep.path, untrusted_files.RECORD_BYTES)
    if stamp is not None:
        before = ended.get(run_id)
        record = before[1] if before is not None and before[0] == stamp else sweep_dir.result(run)
        if record is not None:
            ended[run_id] = stamp, record
            values = {name: number(record.get(name)) for name in ("loss", "train_loss")}
            times = {"seconds": record.get("wall_seconds"), "at": record.get("ended_at")}
            times = {name: number(value) for name, value in times.items()}
            return {
                "state": record["status"],
                "step": number(record.get("steps")) or 0,
                **values,
                **times,
                "curve_flag": printable(record.get("curve_flag") or "") or None,
            }
    state = sweep_dir.unfinished(run)
    if state == "missing":
        return {}
    line = last_line(run, sweep.path)
    row = {"state": state, "step": number(line.get("step")) or 0}
    row |= {
        "train_loss": number(line.get("loss")),
        "seconds": number(line.get("seconds")),
    }
    return row | (_failure(run, sweep.path) if state == "failed" else {})


def _failure(run: Path, root: Path) -> dict[str, Any]:
    file = run / "error.json"
    if untrusted_files.stamp(file, root, ERROR_BYTES) is None:  # it has begun again
        return {}
    try:
        error = untrusted_files.load(file.read_text(encoding="utf-8"), file)
    except (BadInput, UnicodeDecodeError):
        error = None
    if not isinstance(error, dict):
        return {"message": f"{file} is damaged"}
    return {
        "message": printable(error.get("message") or ""),
        "at": number(error.get("at")),
    }


def _flops_spent(row: dict[str, Any]) -> float:
    """FLOPs of the steps that a run has made itself; its `flops` are of those after the fork, where it has one."""
    forked = row.get("fork_step", 0)
    return row["flops"] * min(max((row["step"] - forked) / max(row["steps"] - forked, 1), 0), 1)


def _rate(table: list[dict[str, Any]]) -> float | None:
    """FLOP/s of one run over the runs of some rows; None where no times are known."""
    timed = [(_flops_spent(row), row["seconds"]) for row in table if row["seconds"] and row["seconds"] > 0]
    seconds = sum(seconds for _, seconds in timed)
    return number(sum(flops for flops, _ in timed) / seconds) or None if seconds else None
