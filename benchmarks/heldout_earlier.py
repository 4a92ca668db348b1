"""The forecasts of this package at commit 42f1c91, kept beside the results so that no one needs that commit.

    git worktree add ../base 42f1c91
    python -m benchmarks.heldout_earlier ../base

makes them again: each case goes to a process that imports `laws` from that folder, and the default fit of that commit is
asked for the forecast of a run and its intervals.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fit_contenders import published
from benchmarks.heldout_cases import Case, Points, Rows, fingerprint
from benchmarks.heldout_forecasts import LEVELS, CannotForecast, RunForecasts
from benchmarks.heldout_power_sums import drivers
from benchmarks.heldout_tables import read_cases

KEPT = Path(__file__).parent / "results" / "heldout_42f1c91.json"
# Runs in the earlier commit: cases as lines of JSON on stdin, forecasts as lines of JSON on stdout.
SCRIPT = """
import dataclasses, json, sys, time, warnings
import numpy as np, pandas as pd
import laws
from laws.errors import BadTable, FitFailed
warnings.simplefilter("ignore")
for line in sys.stdin:
    case = json.loads(line)
    names = {name: name for name in ("n", "d", "c", "loss") if name in case["fitted"]}
    began = time.process_time()
    try:
        table = laws.load(pd.DataFrame(case["fitted"]), **names, run="run")
        predictor = laws.analyse(table, case["law"]).predictor
        points = {name: np.array(values) for name, values in case["points"].items()}
        found = [dataclasses.replace(predictor, level=level).losses(points) for level in case["levels"]]
        digits = lambda values: [float(f"{value:.7g}") for value in values]
        made = {"median": digits(found[0][0]), "ends": [[digits(low), digits(high)] for _, low, high in found]}
    except (BadTable, FitFailed) as error:
        made = {"reason": str(error)}
    made |= {"case": case["case"], "cpu_seconds": time.process_time() - began}
    print(json.dumps(made), flush=True)
"""


@cache
def kept_forecasts() -> dict[str, dict[str, Any]]:
    """What is kept, by the fingerprint of a case; nothing where the file is absent."""
    return json.loads(KEPT.read_text())["forecasts"] if KEPT.exists() else {}


@cache
def version_of_kept() -> str:
    """Hash of the file: forecasts that were absent are looked for again."""
    return hashlib.sha256(KEPT.read_bytes()).hexdigest()[:16] if KEPT.exists() else "absent"


def earlier(rows: Rows, points: Points) -> RunForecasts:
    """The kept forecasts for these rows and points."""
    kept = kept_forecasts().get(fingerprint(rows, points))
    if kept is None:
        raise CannotForecast(
            f"no forecasts of these rows are kept in {KEPT.name} (benchmarks.heldout_earlier makes them)"
        )
    if "reason" in kept:
        raise CannotForecast(kept["reason"])
    return RunForecasts(np.array(kept["median"]), np.array(kept["ends"]), kept["cpu_seconds"])


def _line(case: Case) -> str:
    """A case as the script reads it."""
    known, ahead = drivers(case.fitted), drivers(case.points)
    fitted = {**known, "c": case.fitted.c, "loss": case.fitted.loss}
    return json.dumps(
        {
            "case": case.name,
            "law": "chinchilla" if "n" in known else "power_offset_d",
            "levels": LEVELS,
            "fitted": {name: values.tolist() for name, values in fitted.items()}
            | {"run": list(map(str, case.fitted.run))},
            "points": {name: values.tolist() for name, values in {**ahead, "c": case.points.c}.items()},
        }
    )


def main() -> int:
    """Make the forecasts of all cases and keep them; 2 where the folder is not one of that commit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="a checkout of commit 42f1c91")
    parser.add_argument("--out", type=Path, default=KEPT)
    given = parser.parse_args()
    if not (given.base / "laws").is_dir():
        print(f"{given.base}: no checkout of this repository", file=sys.stderr)
        return 2
    cases = {case.name: case for case in read_cases(published())}
    environment = os.environ | {"PYTHONPATH": str(given.base.resolve()), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=given.base,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    forecasts = {}
    for name, case in cases.items():
        process.stdin.write(_line(case) + "\n")
        process.stdin.flush()
        made = json.loads(process.stdout.readline())
        forecasts[case.fingerprint] = made
        print(f"{name}: {made.get('reason', 'done')} ({made['cpu_seconds']:.1f} CPU s)", file=sys.stderr, flush=True)
    process.stdin.close()
    process.wait()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(made)}" for key, made in forecasts.items())
    given.out.write_text(f'{{"commit": "42f1c91", "forecasts": {{\n{lines}\n}}}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
