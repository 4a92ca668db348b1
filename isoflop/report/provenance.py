"""What produced a study."""

from typing import Any

import pandas as pd

from isoflop.report.markup import (
    Html,
    count,
    definitions,
    duration,
    join,
    power_of_ten,
    tag,
)
from isoflop.report.study import Frame, Place, Study, distinct, versions


def provenance(study: Study, place: Place) -> Html:
    """What produced the study, and how to check it."""
    del place
    frame, report = study.runs, study.fit.report if study.fit else None
    typed = [report and report.command, *(found and found.get("command") for found in (study.prediction, study.score))]
    commands = [*map(str, filter(None, typed)), f"isoflop report {study.folder}"]
    devices = [f"{number} × {kind}" for kind, number in _pairs(frame, "device_kind", "num_devices")]
    systems = [f"Python {e.get('python')}, {e.get('platform')}" for e in study.environments]
    inputs = [
        join(tag("code", file.path), " sha256 ", tag("code", (file.sha256 or "none")[:16]))
        for file in (report.inputs if report else ())
    ]
    return join(
        tag("pre", tag("code", "\n".join(commands))),
        definitions(
            [
                ("training FLOPs", power_of_ten(_sum(frame, "flops_exact")) if len(frame) else None),
                ("tokens trained on", count(_sum(frame, "tokens")) if len(frame) else None),
                ("time of the runs", _time(frame)),
                ("device", ", ".join(devices)),
                ("system", ", ".join(dict.fromkeys(systems))),
                ("versions", ", ".join(versions(frame))),
                ("revision", _codes([short(name) for name in distinct(frame, "git_revision")])),
                ("corpus", ", ".join(distinct(frame, "corpus"))),
                ("data hash", _codes(distinct(frame, "data_hash"))),
                (
                    "tokenizer",
                    join(", ".join(distinct(frame, "tokenizer")), " ", _codes(distinct(frame, "tokenizer_hash"))),
                ),
                ("evaluation set", ", ".join(distinct(frame, "eval_set"))),
                ("table fitted", join(*inputs) if inputs else None),
            ]
        ),
    )


def short(revision: str) -> str:
    """A revision by its first digits, and whether the tree was changed."""
    name, plus, state = revision.partition("+")
    return name[:12] + plus + state


def _pairs(frame: Frame, *columns: str) -> list[tuple]:
    if not set(columns) <= set(frame):
        return []
    return [tuple(row) for row in frame[list(columns)].dropna().drop_duplicates().astype({columns[1]: int}).to_numpy()]


def _sum(frame: Frame, column: str) -> float | None:
    numbers: Any = pd.to_numeric(frame[column], errors="coerce") if column in frame else None
    return None if numbers is None else float(numbers.sum())


def _codes(values: list[str]) -> Html:
    return join(*(join(tag("code", value), " ") for value in values))


def _time(frame: Frame) -> str | None:
    total, compiling = _sum(frame, "wall_seconds"), _sum(frame, "compile_seconds")
    if not total:
        return None
    return f"{duration(total)} summed over the runs" + (
        f", {duration(compiling)} of them compiling" if compiling else ""
    )
