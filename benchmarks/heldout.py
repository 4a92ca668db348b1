"""Forecasts judged on published tables: fitted below a cut of compute, scored on every run above it.

    python -m benchmarks.heldout
    python -m benchmarks.heldout --contenders isoflop scipy_huber --cuts far --tables marin
    python -m benchmarks.heldout --again isoflop          # its kept forecasts are made anew
    python -m benchmarks.heldout --peer ../peer           # a folder with simple-scaling-laws, as for benchmarks.fit
    python -m benchmarks.heldout --list                   # tables, cuts, sources and contenders

The tables are those of the folder ISOFLOP_PUBLISHED (by default ../shared/data/published); a CSV with columns of
parameters, tokens and loss that is put there is a further table (`benchmarks.heldout_tables`). `far` fits the budgets up to
a tenth of the largest, `near` up to a third; a budget is never cut in two, and every contender gets the same rows.
`origins` are the cases of a public rolling-origin study of learning curves, with the forecasts that it published (`kept:`).
Forecasts are kept in --work, one file a contender and case, so that a run can be stopped and continued; those of other rows
or of another version of a contender (for `isoflop`, of the package `laws`) are made again.

Figures are in percent of the measured loss. `near opt` is the error of the best third of the runs of each budget (of each
half decade of compute where a table has no budgets); `in 50` and `in 95` are the shares of runs inside the intervals of one
run; `score` is the mean interval score at 95% (Gneiting and Raftery 2007). They are means over runs of a table, then over
the tables of a source, then over sources; +- is a bootstrap over sources. A pooled table holds the contenders that could do
at least four fifths of the cases, on the cases that all of these could do. Every other contender stands beside the
reference on the cases that both could do. CPU seconds are those of one process, compilation included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fit_contenders import published
from benchmarks.heldout_cases import CUTS, Case, Kind
from benchmarks.heldout_contenders import CONTENDERS, run, unavailable
from benchmarks.heldout_forecasts import CannotForecast, Contender, RunForecasts
from benchmarks.heldout_scores import Figures, case_figures, comparison
from benchmarks.heldout_tables import read_cases, skipped_files
from laws.base.errors import InputError

ENOUGH = 0.8  # share of the cases that a contender must do to be in the pooled comparison
REFERENCE = "isoflop"
ORIGINS = "origins"  # the section of curves at rolling origins
KEPT = "kept:"  # prefix of published forecasts of others
# Columns of the printed table: heading, figure, decimals, whether its error is shown.
COLUMNS = (
    ("error", "error", 2, True),
    ("median", "median_error", 2, False),
    ("bias", "bias", 2, False),
    ("near opt", "near_error", 2, True),
    ("in 50", "inside_50", 2, False),
    ("in 95", "inside_95", 2, True),
    ("width", "width", 1, False),
    ("score", "score", 1, True),
    ("of best", "score_of_best", 2, True),
    ("CPU s", "cpu_seconds", 1, False),
)


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raises ``CannotForecast`` in what takes more CPU seconds.

    Args:
        seconds: of this process; infinite for no limit.
    """
    if not np.isfinite(seconds):
        yield
        return

    def stop(*_: Any) -> None:
        raise CannotForecast(f"more than {seconds:g} CPU seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def forecast(name: str, contender: Contender, case: Case, limit: float) -> dict[str, Any]:
    """Forecasts of a contender for a case, or the reason why there are none, as they are kept.

    Args:
        name: of the contender.
        contender: who forecasts.
        case: the cut.
        limit: CPU seconds.
    """
    entry: dict[str, Any] = {
        "contender": name,
        "case": case.name,
        "version": contender.version(),
        "fingerprint": case.fingerprint,
    }
    began = time.process_time()
    try:
        with cpu_limit(limit):
            found = run(contender, case.fitted, case.points)
    except CannotForecast as refusal:
        return entry | {"reason": str(refusal), "cpu_seconds": time.process_time() - began}
    seconds = time.process_time() - began if found.cpu_seconds is None else found.cpu_seconds
    return entry | {"median": found.median.tolist(), "ends": found.ends.tolist(), "cpu_seconds": seconds}


def kept_or_made(name: str, contender: Contender, case: Case, work: Path, limit: float, again: bool) -> dict[str, Any]:
    """The forecasts of a contender for a case, from its file if that is of the same rows and version.

    Args:
        name, contender, case, limit: as in ``forecast``.
        work: folder of the files.
        again: whether they are made anew in any case.
    """
    if case.table.kind not in contender.kinds:
        return {"reason": f"it does not forecast a {case.table.kind}"}
    path = work / name / f"{case.name}.json"
    if path.exists() and not again:
        kept = json.loads(path.read_text())
        if (kept["version"], kept["fingerprint"]) == (contender.version(), case.fingerprint):
            return kept
    if reason := unavailable(contender):
        return {"reason": reason}
    made = forecast(name, contender, case, limit)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(made) + "\n")
    os.replace(draft, path)
    outcome = made.get("reason") or "done"
    print(f"{name}, {case.name}: {outcome} ({made['cpu_seconds']:.1f} CPU s)", file=sys.stderr, flush=True)
    return made


def section(case: Case) -> str:
    """The part of the report to which a case belongs."""
    return case.cut if case.table.kind is Kind.SURFACE else ORIGINS


def published_rivals(case: Case) -> dict[str, RunForecasts]:
    """Forecasts that others published for a case, as contenders: their intervals are of 95%."""
    return {
        f"{KEPT}{method}": RunForecasts(
            np.array([kept.median]), np.array([[[np.nan], [np.nan]], [[kept.low], [kept.high]]])
        )
        for method, kept in case.kept.items()
    }


def judged(
    cases: Sequence[Case], entries: Mapping[str, Mapping[str, dict[str, Any]]]
) -> tuple[dict[str, dict[str, Figures]], dict[str, dict[str, str]]]:
    """Figures, and reasons of absence, of every contender: name -> case.

    Args:
        cases: of one section.
        entries: contender -> case -> what is kept.
    """
    figures: dict[str, dict[str, Figures]] = {}
    reasons: dict[str, dict[str, str]] = {}
    for case in cases:
        for name, of_contender in entries.items():
            entry = of_contender.get(case.name)
            if entry is None:
                continue
            if "reason" in entry:
                reasons.setdefault(name, {})[case.name] = entry["reason"]
                continue
            found = RunForecasts(np.array(entry["median"]), np.array(entry["ends"]))
            figures.setdefault(name, {})[case.name] = case_figures(case, found, entry["cpu_seconds"])
        for name, found in published_rivals(case).items():
            figures.setdefault(name, {})[case.name] = case_figures(case, found, None)
    return figures, reasons


def report_of(cases: Sequence[Case], entries: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, Any]:
    """One section of the report.

    Args:
        cases: of the section.
        entries: contender -> case -> what is kept.
    """
    figures, reasons = judged(cases, entries)
    source = {case.name: case.table.source for case in cases}
    compared = [name for name in figures if len(figures[name]) >= ENOUGH * len(cases)]
    beside = {
        name: comparison(figures, [REFERENCE, name] if REFERENCE in figures else [name], source)
        for name in figures
        if name not in compared
    }
    return {
        "cases": {
            case.name: {"source": case.table.source, "fitted": len(case.fitted), "scored": len(case.scored)}
            for case in cases
        },
        "pooled": comparison(figures, compared, source),
        "beside_reference": beside,
        "absent": reasons,
        "figures": figures,
    }


def _cell(entry: dict[str, Any] | None, decimals: int, with_error: bool) -> str:
    if entry is None or not np.isfinite(entry["value"]):
        return "-"
    error = entry.get("error")
    return f"{entry['value']:.{decimals}f}" + (f"±{error:.{decimals}f}" if with_error and error is not None else "")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def table_lines(compared: Mapping[str, Any]) -> list[str]:
    """The rows of a comparison for people, the least error first.

    Args:
        compared: as ``benchmarks.heldout_scores.comparison`` returns it.
    """
    rows = [["contender", *(heading for heading, *_ in COLUMNS)]]
    for name, entry in sorted(compared["contenders"].items(), key=lambda item: item[1]["error"]["value"]):
        rows.append([name, *(_cell(entry.get(figure), decimals, error) for _, figure, decimals, error in COLUMNS)])
    return _aligned(rows)


def source_lines(compared: Mapping[str, Any], figure: str) -> list[str]:
    """One figure by source: a row a contender, a column a source.

    Args:
        compared: as above.
        figure: its name.
    """
    sources = compared["sources"]
    rows = [[figure, *sources]]
    for name, entry in sorted(compared["contenders"].items(), key=lambda item: item[1]["error"]["value"]):
        if entry.get(figure) is not None:
            rows.append([name, *(f"{entry[figure]['sources'][source]:.2f}" for source in sources)])
    return _aligned(rows)


def section_text(name: str, found: Mapping[str, Any]) -> str:
    """A section of the report for people."""
    compared = found["pooled"]
    lines = [
        f"== {name}: {len(compared['cases'])} of {len(found['cases'])} cases, those that every contender below could do, "
        f"of {len(compared['sources'])} sources"
    ]
    if compared["cases"]:
        lines += [*table_lines(compared), "", *source_lines(compared, "error")]
        lines += ["", *source_lines(compared, "inside_95"), "", *source_lines(compared, "score")]
    for beside, pair in found["beside_reference"].items():
        others = f" beside {REFERENCE}" if len(pair["contenders"]) > 1 else ""
        lines += ["", f"-- {beside}{others}, on the {len(pair['cases'])} cases that could be done"]
        lines += table_lines(pair) if pair["cases"] else []
    for absent, reasons in found["absent"].items():
        for reason, count in Counter(reasons.values()).most_common():
            lines.append(f"{absent} could not do {count} of {len(found['cases'])}: {reason}")
    return "\n".join(lines)


def listing(cases: Sequence[Case], folder: Path) -> str:
    """Tables, cuts and contenders for people."""
    lines = [f"{'case':<52}{'source':<20}{'fitted':>8}{'scored':>8}"]
    for case in cases:
        lines.append(f"{case.name:<52}{case.table.source:<20}{len(case.fitted):>8}{len(case.scored):>8}")
    lines += [f"{file}: no table ({reason})" for file, reason in skipped_files(folder).items()]
    for name, contender in CONTENDERS.items():
        lines.append(f"{name}: {contender.about}" + (f" ({reason})" if (reason := unavailable(contender)) else ""))
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--tables", nargs="*", metavar="PART", help="tables whose names hold one of these")
    parser.add_argument("--cuts", nargs="*", default=[*CUTS, ORIGINS], choices=[*CUTS, ORIGINS])
    parser.add_argument(
        "--again", nargs="*", default=[], metavar="NAME", help="contenders whose forecasts are made anew"
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU seconds a case, at most")
    parser.add_argument("--work", type=Path, default=Path("runs/heldout"), help="forecasts are kept here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/heldout.json"))
    parser.add_argument("--peer", type=Path, help="a folder with simple-scaling-laws, where it is not installed")
    parser.add_argument("--list", action="store_true", help="show tables, cuts and contenders, and end")
    return parser.parse_args()


def _forecast_all(given: argparse.Namespace, cases: Sequence[Case]) -> dict[str, dict[str, dict[str, Any]]]:
    """What every chosen contender forecasts, or why it does not: contender -> case."""
    return {
        name: {
            case.name: kept_or_made(name, CONTENDERS[name], case, given.work, given.seconds, name in given.again)
            for case in cases
        }
        for name in given.contenders
    }


def main() -> int:
    """Forecast what is missing, print the comparison and write it as JSON; 2 where something asked for is not there."""
    given, folder = _arguments(), published()
    if not folder.is_dir():
        print(f"golden tables are absent: {folder} (ISOFLOP_PUBLISHED)", file=sys.stderr)
        return 2
    if unknown := sorted({*given.contenders, *given.again} - set(CONTENDERS)):
        print(f"no such contender: {', '.join(unknown)}; contenders: {', '.join(CONTENDERS)}", file=sys.stderr)
        return 2
    if given.peer:
        if not given.peer.is_dir():
            print(f"{given.peer}: no such folder", file=sys.stderr)
            return 2
        sys.path.append(str(given.peer.resolve()))
    try:
        cases = read_cases(folder)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    chosen = [case for case in cases if section(case) in given.cuts]
    if given.tables is not None:
        chosen = [case for case in chosen if any(part in case.table.name for part in given.tables)]
    if not chosen:
        names = ", ".join(dict.fromkeys(case.table.name for case in cases))
        print(f"no such table; tables: {names}", file=sys.stderr)
        return 2
    if given.list:
        print(listing(chosen, folder))
        return 0
    entries = _forecast_all(given, chosen)
    sections = {}
    for name in given.cuts:
        if of_section := [case for case in chosen if section(case) == name]:
            sections[name] = report_of(of_section, entries)
            print(section_text(name, sections[name]), end="\n\n", flush=True)
    report = {
        "task": "forecasts of runs above a cut of compute, in percent of the measured loss; pooled over sources",
        "contenders": {name: CONTENDERS[name].about for name in given.contenders},
        "versions": {name: CONTENDERS[name].version() for name in given.contenders},
        "sections": sections,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
