"""Predictions written before the measurement, with hashes of what they were made from.

The hashes have no key: they detect accidents (a file that was edited, a table that was collected anew), not someone who
writes a file and its hash again. To show more, commit the hash of a prediction to a public repository, or send it to
someone else, before the runs are made.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from laws.base.errors import InputError
from laws.base.json_files import content_hash, jsonable, read_json, sha256, write_json
from laws.data.checks import DERIVED
from laws.data.loading import DEFAULTS
from laws.forecasting.prediction import Forecast
from laws.results.report import FitReport, plain_number, read_report
from laws.results.report_parts import InputFile
from laws.results.results import FitResult

KIND = "isoflop.prediction"


@dataclass(frozen=True, repr=False)
class FrozenPrediction:
    """A prediction as its file holds it.

    Args:
        target: variable -> value at which it was made; ``c`` alone for the best split of a compute budget.
        prediction: the forecast.
        created_at: when it was frozen, unix seconds.
        inputs: files that it was made from, with the hashes of their bytes.
        command: how it was made, where that is known.
        fit: the fit.
        sha256: hash of the rest of the file.
        kind: what the file is.
    """

    target: dict[str, float]
    prediction: Forecast
    created_at: float
    inputs: tuple[InputFile, ...]
    command: str | None
    fit: FitReport
    sha256: str
    kind: str = KIND

    @property
    def table_options(self) -> dict[str, Any]:
        """Keyword arguments of ``laws.load`` that read another table as the fit read its own."""
        columns = {variable: column for variable, column in self.fit.columns.items() if column != DERIVED.get(variable)}
        if "noise" in columns:
            columns["loss_stderr"] = columns.pop("noise")
        named = {
            variable: columns.pop(variable) for variable in (*DEFAULTS, "run", "loss_stderr") if variable in columns
        }
        return named | {"columns": columns} | self.fit.read_with

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return jsonable(msgspec.to_builtins(self, enc_hook=plain_number))

    def __repr__(self) -> str:
        low, high = self.prediction.interval
        target = ", ".join(f"{variable} = {value:.4g}" for variable, value in self.target.items())
        return (
            f"<FrozenPrediction at {target}: {self.prediction.value:.5g}, {self.prediction.level:.0%} interval "
            f"[{low:.5g}, {high:.5g}], sha256 {self.sha256[:12]}>"
        )


def freeze(
    fitted: FitResult,
    path: str | Path,
    *,
    fit_path: str | Path | None = None,
    compute: float | None = None,
    command: str | None = None,
    **given: float,
) -> FrozenPrediction:
    """A prediction written once, with its fit, its time and the hashes of its inputs.

    Args:
        fitted: the fit.
        path: the file; one that already holds this very prediction is left as it is.
        fit_path: where the fit was read from, to be checked when the prediction is scored.
        compute, given: as in ``FitResult.forecast``.
        command: how it was made, for the reader.

    Returns:
        what the file holds.

    Raises:
        InputError: the file holds another prediction, or the request is not a valid one.

    Example:
        >>> import pathlib, tempfile, numpy as np, pandas as pd, laws
        >>> c = np.geomspace(1e18, 1e21, 8)
        >>> fit = laws.load(pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15}), c="c").fit("power_offset_c", resamples=0)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prediction.json"
        >>> frozen = laws.freeze(fit, path, c=1e23)
        >>> frozen.target, path.exists()
        ({'c': 1e+23}, True)
    """
    target = {variable: float(value) for variable, value in given.items() if value is not None}
    forecast = fitted.forecast(compute=compute, **target)
    inputs = [{"path": file.path, "sha256": file.sha256} for file in fitted.report.inputs]
    if fit_path is not None:
        inputs.insert(0, {"path": str(fit_path), "sha256": sha256(fit_path)})
    payload = jsonable(
        {
            "kind": KIND,
            "created_at": time.time(),
            "target": target | ({"c": float(compute)} if compute is not None else {}),
            "prediction": asdict(forecast),
            "inputs": inputs,
            "command": command,
            "fit": fitted.to_dict(),
        }
    )
    payload["sha256"] = content_hash(payload)
    frozen = _typed(payload, path)
    if not Path(path).exists():
        write_json(path, payload)
        return frozen
    earlier = read_frozen(path)
    if (earlier.target, earlier.prediction, earlier.inputs) != (frozen.target, frozen.prediction, frozen.inputs):
        raise InputError(f"{path}: already holds another prediction; a frozen one is never overwritten")
    return earlier


def read_frozen(path: str | Path) -> FrozenPrediction:
    """A frozen prediction, its hash checked.

    Raises:
        InputError: no such file, not a frozen prediction, one that was changed, or one of a fit of another version.

    Example:
        >>> import pathlib, tempfile, numpy as np, pandas as pd, laws
        >>> c = np.geomspace(1e18, 1e21, 8)
        >>> fit = laws.load(pd.DataFrame({"c": c, "loss": 2 + 1e3 * c**-0.15}), c="c").fit("power_offset_c", resamples=0)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "prediction.json"
        >>> laws.freeze(fit, path, c=1e23) == laws.read_frozen(path)
        True
    """
    freezing = "isoflop predict fit.json --compute=FLOPS --freeze=prediction.json"
    payload = read_json(path, "frozen prediction", freezing)
    if payload.get("kind") != KIND:
        raise InputError(f"{path}: not a frozen prediction", command=freezing)
    if payload.get("sha256") != content_hash(payload):
        raise InputError(f"{path}: the frozen prediction was changed after it was written (its hash does not match)")
    return _typed(payload, path)


def _typed(payload: dict[str, Any], path: str | Path) -> FrozenPrediction:
    """The content of a file as typed values."""
    try:
        return FrozenPrediction(
            target=msgspec.convert(payload["target"], dict[str, float]),
            prediction=msgspec.convert(payload["prediction"], Forecast),
            created_at=msgspec.convert(payload["created_at"], float),
            inputs=msgspec.convert(payload["inputs"], tuple[InputFile, ...]),
            command=payload["command"],
            fit=read_report(payload["fit"], str(path)),
            sha256=payload["sha256"],
        )
    except KeyError as error:
        raise InputError(f"{path}: not a frozen prediction (no key {error})") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: not a frozen prediction ({error})") from error
