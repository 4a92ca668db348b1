"""Simulations by cell: in chunks that are kept on disk, all cells in turn, so that a run can be stopped and continued."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Simulate = Callable[[Any, int, int], dict[str, np.ndarray]]
Summarise = Callable[[Any, dict[str, np.ndarray]], dict[str, Any]]


def summaries(cells: Mapping[str, Any], work: Path, summary: Summarise) -> dict[str, Any]:
    """The figures of all cells that have been begun.

    Args:
        cells: name -> cell.
        work: where their chunks are kept.
        summary: of a cell and its arrays, whose rows are the sweeps.
    """
    found = {}
    for name, cell in cells.items():
        path = work / f"{name}.npz"
        if path.exists():
            with np.load(path) as kept:
                found[name] = summary(cell, {key: kept[key] for key in kept.files if key != "chunks"})
    return found


def advance(name: str, cell: Any, work: Path, sweeps: int, chunk: int, simulate: Simulate) -> int:
    """One more chunk of a cell, kept on disk; how many sweeps it then has.

    Args:
        chunk: sweeps at a time.
        simulate: ``(cell, number of the chunk, sweeps) -> arrays``.
    """
    path = work / f"{name}.npz"
    kept: dict[str, np.ndarray] = {}
    if path.exists():
        with np.load(path) as found:
            kept = {key: found[key] for key in found.files}
    number = int(kept.pop("chunks", 0))
    done = len(next(iter(kept.values()))) if kept else 0
    if done >= sweeps:
        return done
    new = simulate(cell, number, min(chunk, sweeps - done))
    joined: dict[str, Any] = {key: np.concatenate([kept[key], new[key]]) if kept else new[key] for key in new}
    draft = path.with_suffix(".draft.npz")
    np.savez(draft, chunks=number + 1, **joined)
    os.replace(draft, path)
    return len(next(iter(joined.values())))


def run(
    name: str,
    doc: str | None,
    cells: Mapping[str, Any],
    sweeps: int,
    chunk: int,
    simulate: Simulate,
    report: Callable[[Path], dict[str, Any]],
) -> int:
    """The command: simulate what is missing, in turn, and write the report after every round."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{name}.json"))
    parser.add_argument("--work", type=Path, default=Path(f"runs/{name}"), help="what is done is kept here")
    parser.add_argument("--sweeps", type=int, default=sweeps, help="of every cell")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no chunk after so many")
    parser.add_argument("--cells", nargs="*", default=list(cells))
    given = parser.parse_args()
    unknown = sorted(set(given.cells) - set(cells))
    if unknown:
        print(f"no such cell: {', '.join(unknown)}; cells: {', '.join(cells)}", file=sys.stderr)
        return 2
    given.work.mkdir(parents=True, exist_ok=True)
    end, done = time.monotonic() + 60 * given.minutes, 0
    while done < given.sweeps and time.monotonic() < end:
        counts = []
        for cell in given.cells:
            if time.monotonic() < end:
                counts.append(advance(cell, cells[cell], given.work, given.sweeps, chunk, simulate))
                print(f"{cell}: {counts[-1]} sweeps", file=sys.stderr, flush=True)
        done = min(counts)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report(given.work), indent=1) + "\n")
    return 0
