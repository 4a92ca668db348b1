"""The laws of mixtures on a sweep of mixtures: what they say of each domain, and the best mixture.

isoflop sweep --config=configs/lm/mixture.py --workdir=runs/mixture
python -m benchmarks.mixture runs/mixture --out=benchmarks/results/mixture.json
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import laws
from configs.lm.mixture import CORPORA
from sweeps.collect import collect


def measure(table: Path) -> dict[str, Any]:
    """Fits of every domain, the best mixture, and the runs that they are of.

    Args:
        table: `runs.parquet` of the sweep.
    """
    runs: Any = pd.read_parquet(table)
    runs = runs[runs.status == "completed"]
    fitted = runs[runs["sampled"] == "simplex"]
    columns = {f"share_{j}": f"weight/{name}" for j, name in enumerate(list(CORPORA)[:-1], 1)}
    fits = [
        laws.load(fitted, loss=f"loss/{name}", columns=columns, settings=[]).fit(
            f"mixing_{len(CORPORA)}", resamples=200
        )
        for name in CORPORA
    ]
    best = laws.best_mixture(fits)
    shown = [
        "run_id",
        "seed",
        "sampled",
        "loss",
        *(f"{kind}/{name}" for kind in ("weight", "loss") for name in CORPORA),
    ]
    return {
        "domains": dict(CORPORA),
        "constants": {name: fit.report.params for name, fit in zip(CORPORA, fits, strict=True)},
        "relative_residual_sd": {
            name: float(np.std(np.log(fit.data["loss"]) - np.log(fit.fittedvalues)))
            for name, fit in zip(CORPORA, fits, strict=True)
        },
        "best": dataclasses.asdict(best),
        "runs": json.loads(runs[shown].to_json(orient="records")),
    }


def main() -> None:
    """Measure a sweep and print or write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    text = json.dumps(measure(collect(args.sweep)), indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
