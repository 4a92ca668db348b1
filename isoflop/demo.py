"""`make demo`: the main job. Train a sweep, fit its law, predict a budget that the fit never saw, train it, keep score.

Every step is a command that a person could type; it is printed before it runs. Whatever is done already is not done again.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from configs.lm import demo as study
from isoflop import cli

CONFIG = "configs/lm/demo.py"


def main() -> int:
    """Run the study; returns the exit code of the step that failed, or that of the score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"))
    folder = parser.parse_args().workdir
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code = _study(folder)
    print(f"\n{time.monotonic() - began:.0f} s in all; the report is {folder / 'report.html'}")
    return code


def _study(folder: Path) -> int:
    sweep, fit, frozen, score = (folder / name for name in ("sweep", "fit.json", "prediction.json", "score.json"))
    top = max(study.WIDTHS)
    below, held_out = f"budget<{top:g}", f"budget=={top:g}"
    say("doctor", check=False)
    say("plan", f"--config={CONFIG}", "--nomemory")
    if not frozen.exists():
        widths = grow(sweep, below, {})
        say("fit", sweep, "--law=chinchilla", f"--where={below}", f"--target={top:g}", f"--out={fit}")
        # From here on the prediction cannot change: it carries the hash of what it was made from.
        say("predict", fit, f"--compute={top:g}", f"--freeze={frozen}")
        (folder / "widths.json").write_text(json.dumps(widths))
    widths = json.loads((folder / "widths.json").read_text())
    grow(sweep, held_out, widths)
    code = say("score", frozen, sweep, f"--out={score}", check=False)
    say("plot", fit, f"--out={folder / 'figures'}")
    say("report", folder)
    return code


def grow(sweep: Path, where: str, extra: dict[str, list[int]]) -> dict[str, list[int]]:
    """Train the points of some budgets; where the best size is the smallest or largest one, add the next and say so.

    Args:
      sweep: the sweep directory.
      where: which budgets.
      extra: widths added so far, by budget.
    Returns:
      the widths added, these included.
    """
    for _ in range(3):
        say("sweep", f"--config={config(extra)}", f"--workdir={sweep}", f"--where={where}")
        found = edges(sweep, where)
        if not found:
            break
        for budget, width in found.items():
            print(f"\nthe best size at {budget} FLOPs is at the edge of its sizes: width {width} is added")
            extra.setdefault(budget, []).append(width)
    return extra


def edges(sweep: Path, where: str) -> dict[str, int]:
    """For each budget whose lowest loss is at its smallest or largest size: the next width beyond."""
    import pandas as pd

    from sweeps import collect, design

    runs = pd.read_parquet(collect.collect(sweep))
    key, symbol, value = design.condition(where)
    runs = runs[(runs.status == "completed") & runs[key].map(lambda budget: design.OPERATORS[symbol](budget, value))]
    found = {}
    for budget, group in runs.groupby("budget"):
        mean = group.groupby("model.width").loss.mean().sort_index()
        best = mean.idxmin()
        beyond = best - 8 if best == mean.index[0] else best + 16 if best == mean.index[-1] else 0
        if beyond > 0:
            found[f"{budget:g}"] = int(beyond)
    return found


def config(extra: dict[str, list[int]]) -> str:
    """The study's config with widths added to some budgets."""
    added = ",".join(f"{budget}={width}" for budget, widths in extra.items() for width in widths)
    return f"{CONFIG}:{added}" if added else CONFIG


def say(*words: object, check: bool = True) -> int:
    """Print a command as a person would type it, and run it; leave with its code where it fails."""
    argv = [str(word) for word in words]
    print(f"\n$ isoflop {shlex.join(argv)}", flush=True)
    code = cli.main(argv)
    sys.stdout.flush()
    if check and code:
        sys.exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
