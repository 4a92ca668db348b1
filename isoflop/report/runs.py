"""The table of runs: every point of the sweep, sortable and searchable, those that failed among them."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from isoflop.report.markup import Html, count, duration, join, missing, number, power_of_ten, tag
from isoflop.report.study import Study

STATES = ("completed", "diverged", "failed", "interrupted", "running", "missing")

# heading, column of the table, how it is written; a column that no run has is left out.
COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("run", "run_id", str),
    ("status", "status", str),
    ("budget", "budget", lambda value: power_of_ten(value, 2)),
    ("N", "params_total", lambda value: f"{value:,.0f}"),
    ("D", "tokens", count),
    ("D/N", "tokens_per_param", number),
    ("FLOPs", "flops_exact", power_of_ten),
    ("steps", "steps", lambda value: f"{value:,.0f}"),
    ("batch", "batch_size", lambda value: f"{value:,.0f}"),
    ("peak rate", "peak_lr", number),
    ("seed", "seed", lambda value: f"{value:.0f}"),
    ("train loss", "train_loss", lambda value: number(value, 4)),
    ("loss", "loss", lambda value: number(value, 5)),
    ("accuracy", "accuracy", number),
    ("off the law", "off", lambda value: f"{value:+.2f}%".replace("-", "−")),
    ("time", "wall_seconds", duration),
)
ORDER = ("budget", "params_total", "seed")
WORDS = ("status", "run_id")


def runs(study: Study, place: Any) -> Html | None:
    """The counts of states, the failures, and the table."""
    del place
    rows = _rows(study)
    if not rows:
        return None
    columns = [column for column in COLUMNS if any(not missing(row.get(column[1])) for row in rows)]
    head = [
        tag("th", tag("button", heading, type="button"), scope="col", class_=None if key in WORDS else "num")
        for heading, key, _ in columns
    ]
    found = study.states()
    ordered = sorted(found, key=lambda state: STATES.index(state) if state in STATES else len(STATES))
    states = ", ".join(f"{found[state]} {state}" for state in ordered)
    failures = [row for row in study.pending if row.get("message")]
    return join(
        tag("p", f"{len(rows)} points: {states}." if states else f"{len(rows)} runs."),
        tag("ul", *(tag("li", tag("code", row["run_id"]), f" failed: {row['message']}") for row in failures))
        if failures
        else None,
        tag(
            "p",
            tag("input", type="search", placeholder="filter, as in 1.8×10¹¹ diverged", aria_label="Filter the runs"),
            " ",
            tag("span", id="shown", class_="soft", role="status"),
            class_="screen",
        ),
        tag(
            "div",
            tag("table", tag("thead", tag("tr", *head)), tag("tbody", *(_row(row, columns) for row in rows))),
            class_="wide",
        ),
    )


def _rows(study: Study) -> list[dict[str, Any]]:
    """Every point: as collected where it ended, as planned where not."""
    frame = study.runs[study.runs["status"] != "failed"] if "status" in study.runs else study.runs
    off = {row["run"]: 100 * row["residual"] for row in study.points.to_dict("records")}
    rows = []
    for row in frame.to_dict("records") or ([] if study.fit is None else _fitted(study)):
        found = {key: row.get(key) for _, key, _ in COLUMNS}
        found["off"] = off.get(str(row.get("run_id")))
        if not missing(found["tokens"]) and found["params_total"]:
            found["tokens_per_param"] = found["tokens"] / found["params_total"]
        rows.append(found)
    rows.sort(key=lambda row: [0 if missing(row[key]) else row[key] for key in ORDER])
    planned = [row | {"status": row["state"], "flops_exact": row["flops"]} for row in study.pending]
    return rows + [{key: row.get(key) for _, key, _ in COLUMNS} for row in planned]


def _fitted(study: Study) -> list[dict[str, Any]]:
    """The runs of a fit that has no sweep beside it."""
    names = {"run": "run_id", "n": "params_total", "d": "tokens", "c": "flops_exact"}
    return study.points.rename(columns=names).to_dict("records")


def _row(row: dict[str, Any], columns: list) -> Html:
    status = row.get("status")
    cells = []
    for _, key, write in columns:
        value = row.get(key)
        if key == "status":
            kind = "bad" if value in ("diverged", "failed") else None
            cells.append(tag("td", tag("span", value or "", class_=kind)))
        elif key == "run_id":
            cells.append(tag("th", tag("code", value), scope="row"))
        else:
            order: Any = pd.to_numeric(value, errors="coerce") if isinstance(value, str) else value
            known = not (missing(order) or pd.isna(order))
            shown = write(float(order)) if known else value if isinstance(value, str) else ""
            cells.append(tag("td", shown, class_="num", data_v=float(order) if known else shown))
    return tag("tr", *cells, class_=None if status in ("completed", None) else "apart")
