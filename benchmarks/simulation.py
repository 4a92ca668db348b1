"""Simulations by cell: in chunks that are kept on disk, all cells in turn, so that a run can be stopped and continued."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

Simulate = Callable[[Any, int, int], dict[str, np.ndarray]]
Summarise = Callable[[Any, dict[str, np.ndarray]], dict[str, Any]]


def summaries(
    cells: Mapping[str, Any], work: Path, summary: Summarise, earlier: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The figures of all cells that have been begun.

    Args:
        cells: name -> cell.
        work: where their chunks are kept.
        summary: of a cell and its arrays, whose rows are the sweeps.
        earlier: figures of an earlier report, which stay for cells that have no chunks in ``work``.
    """
    figures = {}
    for name, cell in cells.items():
        path = work / f"{name}.npz"
        if path.exists():
            with np.load(path) as stored:
                figures[name] = summary(cell, {key: stored[key] for key in stored.files if key != "chunks"})
        elif name in earlier:
            figures[name] = earlier[name]
    return figures


def advance(name: str, cell: Any, work: Path, sweeps: int, chunk: int, simulate: Simulate) -> int:
    """One more chunk of a cell, kept on disk; how many sweeps it then has.

    Args:
        chunk: sweeps at a time.
        simulate: ``(cell, number of the chunk, sweeps) -> arrays``.
    """
    path = work / f"{name}.npz"
    earlier: dict[str, np.ndarray] = {}
    if path.exists():
        with np.load(path) as stored:
            earlier = {key: stored[key] for key in stored.files}
    number = int(earlier.pop("chunks", 0))
    done = len(next(iter(earlier.values()))) if earlier else 0
    if done >= sweeps:
        return done
    new = simulate(cell, number, min(chunk, sweeps - done))
    joined: dict[str, Any] = {key: np.concatenate([earlier[key], new[key]]) if earlier else new[key] for key in new}
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
    report: Callable[[Path, dict[str, Any]], dict[str, Any]],
) -> int:
    """The command: simulate what is missing, in turn, and write the report after every round.

    Args:
        name: of the benchmark, and of its files by default.
        doc: what the help says.
        cells: name -> cell.
        sweeps: of every cell, by default.
        chunk: sweeps at a time.
        simulate: ``(cell, number of the chunk, sweeps) -> arrays``.
        report: ``(folder of the chunks, earlier report or nothing) -> report``.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/{name}.json"))
    parser.add_argument("--work", type=Path, default=Path(f"runs/{name}"), help="what is done is kept here")
    parser.add_argument("--sweeps", type=int, default=sweeps, help="of every cell")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin no chunk after so many")
    parser.add_argument("--cells", nargs="*", default=list(cells))
    options = parser.parse_args()
    unknown = sorted(set(options.cells) - set(cells))
    if unknown:
        print(f"no such cell: {', '.join(unknown)}; cells: {', '.join(cells)}", file=sys.stderr)
        return 2
    options.work.mkdir(parents=True, exist_ok=True)
    end, done = time.monotonic() + 60 * options.minutes, 0
    while done < options.sweeps and time.monotonic() < end:
        counts = []
        for cell in options.cells:
            if time.monotonic() < end:
                counts.append(advance(cell, cells[cell], options.work, options.sweeps, chunk, simulate))
                print(f"{cell}: {counts[-1]} sweeps", file=sys.stderr, flush=True)
        done = min(counts)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        earlier = json.loads(options.out.read_text()) if options.out.exists() else {}
        options.out.write_text(json.dumps(report(options.work, earlier), indent=1) + "\n")
    return 0
