"""Predictions written before the measurement, with hashes of what they were made from, and scored afterwards.

The hashes have no key: they detect accidents (a file that was edited, a table that was collected anew), not someone who
writes a file and its hash again. To show more, commit the hash of a prediction to a public repository, or send it to
someone else, before the runs are made.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from laws.base.errors import InputError, NotPreregistered
from laws.base.json_files import content_hash, jsonable, read_json, sha256, write_json
from laws.data.table import DEFAULTS, ExclusionRule, Table, load
from laws.model.law import Law
from laws.results.results import FitResult, from_payload

KIND = "isoflop.prediction"
NEAR = 0.05  # runs within this relative distance of the target are measurements of it
UNCHANGED = 1e-9  # relative difference up to which a number is the same after a round trip through files
INFORMATIVE = 0.05  # an interval wider than this share of the loss says nothing
SHIFT = 5e-5  # relative distance between a run and the target, by the law, from which it is said
DISTANCE_DIGITS = 6  # of a log distance, so that repeats of one size are equally near


def freeze(
    fitted: FitResult,
    path: str | Path,
    *,
    fit_path: str | Path | None = None,
    compute: float | None = None,
    command: str | None = None,
    **given: float,
) -> dict[str, Any]:
    """A prediction written once, with its fit, its time and the hashes of its inputs.

    Args:
        fitted: the fit.
        path: the file; one that already holds this very prediction is left as it is.
        fit_path: where the fit was read from, to be checked when the prediction is scored.
        compute, given: as in ``FitResult.forecast``.
        command: how it was made, for the reader.

    Returns:
        the content of the file.

    Raises:
        InputError: the file holds another prediction, or the request is not a valid one.

    Example:
        >>> import pathlib, tempfile, numpy as np, pandas as pd, laws
        >>> c = np.geomspace(1e18, 1e21, 8)
        >>> fit = laws.load(pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15}), c="c").fit("power_offset_c", resamples=0)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prediction.json"
        >>> frozen = laws.freeze(fit, path, c=1e23)
        >>> frozen["target"], path.exists()
        ({'c': 1e+23}, True)
    """
    given = {variable: float(value) for variable, value in given.items() if value is not None}
    inputs = [{"path": file.path, "sha256": file.sha256} for file in fitted.report.inputs]
    if fit_path is not None:
        inputs.insert(0, {"path": str(fit_path), "sha256": sha256(fit_path)})
    payload = jsonable(
        {
            "kind": KIND,
            "created_at": time.time(),
            "target": given | ({"c": float(compute)} if compute is not None else {}),
            "prediction": asdict(fitted.forecast(compute=compute, **given)),
            "inputs": inputs,
            "command": command,
            "fit": fitted.to_dict(),
        }
    )
    if Path(path).exists():
        found = read_frozen(path)
        same = all(found.get(key) == payload[key] for key in ("target", "prediction", "inputs"))
        if not same:
            raise InputError(f"{path}: already holds another prediction; a frozen one is never overwritten")
        return found
    payload["sha256"] = content_hash(payload)
    write_json(path, payload)
    return payload


def read_frozen(path: str | Path) -> dict[str, Any]:
    """A frozen prediction, its hash checked.

    Raises:
        InputError: no such file, not a frozen prediction, or one that was changed.
    """
    frozen = read_json(path, "frozen prediction")
    if frozen.get("kind") != KIND:
        raise InputError(f"{path}: not a frozen prediction")
    if frozen.get("sha256") != content_hash(frozen):
        raise InputError(f"{path}: the frozen prediction was changed after it was written (its hash does not match)")
    return frozen


def _keys(values: dict[str, Any], loss) -> Float[np.ndarray, "rows fields"]:
    return np.stack(
        [*(np.asarray(values[variable], float) for variable in ("n", "d", "c") if variable in values), loss], axis=1
    )


def _missing(frozen: dict[str, Any], table: Table) -> list[str]:
    """Fitted runs that a table no longer holds with the same numbers."""
    data = frozen["fit"]["data"]
    fitted, now = _keys(data["values"], data["loss"]), _keys(table.values, table.loss)
    if fitted.shape[1] != now.shape[1]:
        return list(data["run"])
    order = np.lexsort(now.T[::-1])
    now = now[order]
    found = []
    for run, row in zip(data["run"], fitted, strict=True):
        first = np.searchsorted(now[:, 0], row[0] * (1 - UNCHANGED))
        last = np.searchsorted(now[:, 0], row[0] * (1 + UNCHANGED), side="right")
        if not np.any(np.all(np.abs(now[first:last] / row - 1) <= UNCHANGED, axis=1)):
            found.append(str(run))
    return found


def _columns(frozen: dict[str, Any]) -> dict[str, Any]:
    """How the fit mapped its columns, to read another table the same way."""
    kept = {variable: column for variable, column in frozen["fit"]["columns"].items() if column != "6ND"}
    named = {variable: kept.pop(variable) for variable in (*DEFAULTS, "run", "noise") if variable in kept}
    return named | {"columns": kept} | frozen["fit"].get("read_with", {})


def check_inputs(frozen: dict[str, Any], table: Table) -> list[str]:
    """Warnings about inputs that cannot be checked any more.

    A sweep's table grows when it is collected again, so a table whose hash differs passes if every run that was fitted
    is still in it with the same numbers.

    Raises:
        InputError: an input is not what the prediction was made from.
    """
    warned = []
    table_path = (frozen["fit"].get("inputs") or [{}])[0].get("path")
    for item in frozen["inputs"]:
        path = Path(item["path"])
        if not path.exists():
            warned.append(f"{path} is no longer there and cannot be checked against its hash")
        elif sha256(path) != item["sha256"]:
            if item["path"] != table_path:
                raise InputError(f"{path}: changed since the prediction was frozen (sha256 {item['sha256'][:12]}...)")
            now = table if table.path == item["path"] else load(path, **_columns(frozen))
            lost = _missing(frozen, now)
            if lost:
                raise InputError(
                    f"{path}: changed since the prediction was frozen: {len(lost)} fitted runs are gone or have other "
                    f"numbers, the first is {lost[0]}"
                )
    return warned


def _measured(frozen: dict[str, Any], table: Table) -> Bool[np.ndarray, " rows"]:
    """The rows that measure the target."""
    at = np.ones(len(table), bool)
    for variable, value in frozen["target"].items():
        at &= table.at_budget(value, NEAR) if variable == "c" else np.abs(table.values[variable] / value - 1) <= NEAR
    if not at.any():
        target = ", ".join(f"{variable} = {value:.4g}" for variable, value in frozen["target"].items())
        raise InputError(f"{table.name}: no run was measured at {target} (within {NEAR:.0%})")
    return at


def _first_record(
    frozen: dict[str, Any], table: Table, at: Bool[np.ndarray, " rows"]
) -> tuple[float | None, list[str]]:
    """When the first measurement of the target ended.

    Raises:
        NotPreregistered: before the prediction was frozen.
    """
    if table.ended_at is None or not np.isfinite(table.ended_at[at]).all():
        return None, [
            f"{table.name} does not say when its runs ended (ended_at): that the prediction came before them is not shown"
        ]
    first = float(table.ended_at[at].min())
    if first <= frozen["created_at"]:
        run = table.run[at][np.argmin(table.ended_at[at])]
        raise NotPreregistered(
            f"{table.name}: run {run} at the target ended {frozen['created_at'] - first:.0f} s before the prediction "
            "was frozen, so the prediction is not preregistered"
        )
    return first, []


def _measurement(
    frozen: dict[str, Any], fitted: FitResult, table: Table, at: Bool[np.ndarray, " rows"]
) -> dict[str, Any]:
    """The one run that measures the target, and its loss brought to the target's size and data by the frozen law.

    The interval is of one run at the target, so it is compared with one run, chosen without a look at its loss: the
    nearest to the target (for a compute budget, to the predicted best size), of repeats the one that ended first. The
    lowest of several sizes would be low by the luck of its noise, and a run beside the target is off by what the law
    says. A fit of the best run of each compute is compared with the best run.

    Args:
        frozen: the prediction.
        fitted: its fit.
        table: the runs.
        at: rows that measure the target.

    Returns:
        ``loss`` at the target; ``run_loss`` as measured; ``how`` in words; the run and its variables; the number of
        sizes and of repeats; and the lowest mean loss of a size.
    """
    rows, target = np.flatnonzero(at), frozen["target"] | frozen["prediction"]["inputs"]
    loss, values = table.loss[rows], {name: column[rows] for name, column in table.values.items()}
    size = np.unique(np.stack(list(values.values()), axis=1), axis=0, return_inverse=True)[1].ravel()
    if any(rule.rule == ExclusionRule.FRONTIER for rule in fitted.report.excluded):
        chosen, ratio, how = int(np.argmin(loss)), 1.0, f"lowest of {len(rows)} runs, as those that were fitted"
    else:
        shared = [name for name in target if name in values and target[name] > 0]
        distance = np.sum([np.abs(np.log(values[name] / target[name])) for name in shared], axis=0)
        ended = np.zeros(len(rows)) if table.ended_at is None else table.ended_at[rows]
        chosen = int(np.lexsort((ended, distance.round(DISTANCE_DIGITS)))[0])
        own = fitted.predict({name: column[[chosen]] for name, column in values.items()})
        ratio = float(fitted.predict({name: [value] for name, value in target.items()}).iloc[0] / own.iloc[0])
        how = f"nearest of {int(size.max()) + 1} measured sizes"
    repeats = int(np.sum(size == size[chosen]))
    how += f", first of {repeats} repeats" if repeats > 1 else ""
    how += f", {loss[chosen]:.5f} at its own size and data" if abs(ratio - 1) > SHIFT else ""
    return {
        "loss": float(loss[chosen]) * ratio,
        "run_loss": float(loss[chosen]),
        "how": how,
        **{variable: float(column[chosen]) for variable, column in values.items()},
        "run": str(table.run[rows[chosen]]),
        "n_sizes": int(size.max()) + 1,
        "n_repeats": repeats,
        "lowest_loss": float(np.min(np.bincount(size, loss) / np.bincount(size))),
    }


def _baselines(frozen: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """What the naive forecasters had said, and how far off they were."""
    said = frozen["fit"]["baselines"]
    out: dict[str, Any] = {"best_so_far": {"loss": said["best_loss"]}, "power_law": None}
    compute = frozen["target"].get("c", measured.get("c"))
    if said["power_law"] and compute:
        out["power_law"] = {"loss": said["power_law"]["k"] * compute ** -said["power_law"]["p"]}
    for entry in filter(None, out.values()):
        entry["abs_rel_error"] = abs(entry["loss"] / measured["loss"] - 1)
    return out


def _runs(fitted: FitResult, table: Table, at: Bool[np.ndarray, " rows"]) -> dict[str, Any]:
    """Every measured run against the law at its own size and data."""
    loss, low, high = fitted.predictor.losses({variable: values[at] for variable, values in table.values.items()})
    error = np.abs(loss / table.loss[at] - 1)
    inside = (low <= table.loss[at]) & (table.loss[at] <= high)
    rows = {variable: values[at] for variable, values in table.values.items()} | {"run": table.run[at].tolist()}
    return {
        "n": int(at.sum()),
        "mean_abs_rel_error": float(error.mean()),
        "max_abs_rel_error": float(error.max()),
        "coverage": float(inside.mean()),
        "rows": rows | {"loss": table.loss[at], "predicted": loss, "low": low, "high": high},
    }


def score(path: str | Path, table: str | Path | Table, law: str | Law | None = None) -> dict[str, Any]:
    """A frozen prediction against what was measured since.

    Args:
        path: the frozen file.
        table: the runs; a path is read with the columns of the fit.
        law: the declaration, or ``file.py:NAME``; needed for a law that is not one of ``laws.LAWS``.

    Raises:
        InputError: the frozen file or an input was changed, or nothing was measured at the target.
        NotPreregistered: a measurement is older than the prediction.

    Example:
        >>> import pathlib, tempfile, time, numpy as np, pandas as pd, laws
        >>> n, d = np.repeat([1e7, 1e8, 1e9], 3), np.tile([1e9, 1e10, 1e11], 3)
        >>> table = pd.DataFrame({"n": n, "d": d, "loss": 1.7 + 400 / n**0.34 + 410 / d**0.28, "ended_at": 0.0})
        >>> fit = laws.load(table, n="n", d="d").fit(resamples=0)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prediction.json"
        >>> frozen = laws.freeze(fit, path, n=1e10, d=1e12)
        >>> table.loc[len(table)] = [1e10, 1e12, 2.1, time.time() + 1]
        >>> report = laws.score(path, laws.load(table, n="n", d="d"))
        >>> report["measured"]["loss"], report["abs_rel_error"] < 0.05
        (2.1, True)
    """
    frozen = read_frozen(path)
    if not isinstance(table, Table):
        table = load(table, **_columns(frozen))
    warned = check_inputs(frozen, table)
    fitted = from_payload(frozen["fit"], str(path), law)
    for key, value in frozen["fit"].get("quantity", {}).items():
        if table.quantity.get(key, value) != value:
            warned.append(f"the prediction is of {key} '{value}', and the runs are of '{table.quantity[key]}'")
    table = table.for_law(fitted.law)
    at = _measured(frozen, table)
    first, unsure = _first_record(frozen, table, at)
    measured = _measurement(frozen, fitted, table, at)
    said = frozen["prediction"]
    low, high = said["interval"]
    width = (high - low) / said["value"]
    if width > INFORMATIVE:
        warned.append(f"uninformative: the interval is {width:.1%} of the loss wide, more than {INFORMATIVE:.0%}")
    return jsonable(
        {
            "kind": "isoflop.score",
            "prediction": {"path": str(path), "sha256": frozen["sha256"]},
            "target": frozen["target"],
            "predicted": {"loss": said["value"], "interval": [low, high], "level": said["level"]},
            "measured": measured,
            "abs_rel_error": abs(said["value"] / measured["loss"] - 1),
            "covered": low <= measured["loss"] <= high,
            "interval_width": high - low,
            "relative_width": width,
            "informative": width <= INFORMATIVE,
            "baselines": _baselines(frozen, measured),
            "runs": _runs(fitted, table, at),
            "extrapolation": said["extrapolation"],
            "preregistered": None if first is None else True,
            "frozen_at": frozen["created_at"],
            "first_record_at": first,
            "warnings": [*unsure, *warned, *table.warnings, *said["warnings"]],
        }
    )
