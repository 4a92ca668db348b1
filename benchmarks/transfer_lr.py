"""Where the best learning rate goes with width and depth: the optima of the sweep `configs/lm/transfer_lr.py`, and a figure.

    python -m benchmarks.transfer_lr runs/transfer_lr
    python -m benchmarks.transfer_lr

With a sweep directory it first writes benchmarks/results/transfer_lr.csv, else it reads that. An optimum is the vertex of
the parabola in the logarithm of the rate through the best rate and its two neighbours, of the mean over seeds; its standard
error is what the noise of the losses makes of it. The noise is that of the difference of two seeds between rates of one
shape. A series drifts by the ratio of its largest optimum to its smallest.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.files import read_object

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).parents[1] / "docs" / "transfer_lr.png"
COLUMNS = (
    *("parametrization", "width", "depth", "seed", "learning_rate", "loss", "status"),
    *("params_total", "tokens", "flops_exact", "run_id"),
)
REFERENCE = (64, 2)  # width and depth, where all parametrizations are one
# Name -> parametrization of the runs, and what varies.
SERIES = {
    "standard, width": ("standard", "width"),
    "muP, width": ("mup", "width"),
    "standard, depth": ("standard", "depth"),
    "CompleteP, depth": ("completep", "depth"),
}

Losses = Mapping[float, list[float]]  # by learning rate: one a seed


class Optimum(NamedTuple):
    """The best learning rate of one shape: base-2 logarithm, its standard error, and whether it is the vertex of a parabola,
    rather than the best of rates that end there."""

    log2: float
    error: float
    inside: bool


def rows_of(workdir: Path) -> list[dict[str, Any]]:
    """The runs of a sweep directory that have ended, in the order of shape and rate."""
    rows = []
    for result in workdir.glob("runs/*/result.json"):
        record, model = read_object(result), read_object(result.parent / "config.json", "model")["model"]
        shape = {"width": model["width"], "depth": model["depth"], "learning_rate": record["peak_lr"]}
        rows.append({name: {**record, **shape}[name] for name in COLUMNS})
    return sorted(rows, key=lambda row: [row[name] for name in COLUMNS[:5]])


def by_shape(rows: list[dict[str, Any]]) -> Mapping[tuple[str, int, int], Losses]:
    """Losses of completed runs by (parametrization, width, depth) and rate, in the order of seeds."""
    shapes: dict[tuple[str, int, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: int(row["seed"])):
        if row["status"] == "completed":
            key = row["parametrization"], int(row["width"]), int(row["depth"])
            shapes[key][float(row["learning_rate"])].append(float(row["loss"]))
    return shapes


def noise(shapes: Mapping[Any, Losses]) -> float:
    """Standard deviation of a loss between seeds, beyond what moves all rates of a shape alike."""
    squares, freedom = 0.0, 0
    for losses in shapes.values():
        differences = np.array([pair[1] - pair[0] for pair in losses.values() if len(pair) > 1])
        if len(differences) > 1:
            squares += np.square(differences - differences.mean()).sum()
            freedom += len(differences) - 1
    return float(np.sqrt(squares / freedom / 2)) if freedom else float("nan")


def vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Where the parabola through three points has its minimum."""
    second, first, _ = np.polyfit(x - x[1], y, 2)
    return float(x[1] - first / (2 * second))


def optimum(losses: Losses, sigma: float) -> Optimum:
    """The best rate of one shape, by the rates that have all of its seeds.

    Args:
        losses: by rate.
        sigma: standard deviation of one loss.
    """
    seeds = max(map(len, losses.values()))
    rates = sorted(rate for rate, values in losses.items() if len(values) == seeds)
    x, y = np.log2(rates), np.array([np.mean(losses[rate]) for rate in rates])
    best = int(np.argmin(y))
    if best in (0, len(x) - 1):
        return Optimum(float(x[best]), float("nan"), False)
    near = slice(best - 1, best + 2)
    found = vertex(x[near], y[near])
    small = 1e-6
    slopes = [(vertex(x[near], y[near] + small * unit) - found) / small for unit in np.eye(3)]
    return Optimum(found, float(np.linalg.norm(slopes) * sigma / seeds**0.5), True)


def analysed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Optima and drifts of every series."""
    shapes = by_shape(rows)
    sigma, series = noise(shapes), {}
    for name, (parametrization, along) in SERIES.items():
        fixed = REFERENCE[1] if along == "width" else REFERENCE[0]
        optima = {}
        for (of, width, depth), losses in sorted(shapes.items()):
            size, other = (width, depth) if along == "width" else (depth, width)
            # Where all parametrizations are one, the sweep ran it once.
            if other == fixed and of == ("standard" if (width, depth) == REFERENCE else parametrization):
                optima[size] = optimum(losses, sigma)
        ends = min(optima.values()), max(optima.values())
        log2 = ends[1].log2 - ends[0].log2
        error = float(np.hypot(ends[0].error, ends[1].error))
        series[name] = {
            "optima": {
                str(size): {"learning_rate": 2**best.log2, "factor_of_error": 2**best.error, "inside": best.inside}
                for size, best in sorted(optima.items())
            },
            "drift": 2**log2,
            "drift_interval_95": [2 ** max(log2 - 1.96 * error, 0.0), 2 ** (log2 + 1.96 * error)],
        }
    return {"noise_of_a_loss": sigma, "runs": len(rows), "series": series}


def draw(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """A panel for each series: loss against rate by size, and where the optima are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = by_shape(rows)
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7.5), sharex=True, sharey=True, layout="constrained")
    for panel, (name, (parametrization, along)) in zip(panels.flat, SERIES.items(), strict=True):
        optima = found["series"][name]["optima"]
        for index, (size, best) in enumerate(optima.items()):
            width, depth = (int(size), REFERENCE[1]) if along == "width" else (REFERENCE[0], int(size))
            losses = shapes["standard" if (width, depth) == REFERENCE else parametrization, width, depth]
            colour = pyplot.colormaps["viridis"](index / max(len(optima) - 1, 1) * 0.9)
            rates = sorted(losses)
            panel.plot(
                rates, [np.mean(losses[rate]) for rate in rates], "o-", color=colour, ms=3, label=f"{along} {size}"
            )
            if best["inside"]:
                panel.axvline(best["learning_rate"], color=colour, ls=":", lw=1)
        low, high = found["series"][name]["drift_interval_95"]
        panel.set_title(
            f"{name}: optima drift {found['series'][name]['drift']:.2f} times ({low:.2f} to {high:.2f})", fontsize=10
        )
        panel.legend(fontsize=8)
        panel.grid(alpha=0.2)
    panels[0, 0].set_xscale("log", base=2)
    panels[0, 0].set_xticks([2.0**-power for power in range(5, 12)], [f"2^-{power}" for power in range(5, 12)])
    for panel in panels[1]:
        panel.set_xlabel("learning rate at the peak, of the reference model")
    for panel in panels[:, 0]:
        panel.set_ylabel("evaluation loss, nats a byte")
    figure.savefig(FIGURE, dpi=130)


def main(arguments: list[str]) -> int:
    """Print the optima; write the table of a sweep directory, the results and the figure."""
    table = RESULTS / "transfer_lr.csv"
    if arguments:
        rows = rows_of(Path(arguments[0]))
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = analysed(rows)
    (RESULTS / "transfer_lr.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(rows, found)
    for name, series in found["series"].items():
        low, high = series["drift_interval_95"]
        print(f"{name}: drift {series['drift']:.2f} ({low:.2f} to {high:.2f})")
        for size, best in series["optima"].items():
            inside = f"x/ {best['factor_of_error']:.2f}" if best["inside"] else "at the end of the rates"
            print(f"  {size:>4}: {best['learning_rate']:.2e} {inside}")
    print(f"noise of a loss between seeds: {found['noise_of_a_loss']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
