"""`isoflop predict`: the loss of a run, or the best split of a compute budget, from a fit; frozen if asked."""

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _base_run, _laws, _optimum_config
from sweeps.untrusted_files import printable
from training.errors import BadInput

if TYPE_CHECKING:
    from laws import CheapestModel, FitResult, Forecast

EXAMPLE = """
isoflop predict fit.json --n=7e9 --d=1.4e11
isoflop predict fit.json --compute=1e12 --freeze=prediction.json
isoflop predict fit.json --n=7e9 --d=1.4e11 --at=unique_tokens=2.5e10
isoflop predict task_loss.json --n=7e9 --d=1.4e11 --downstream_fit=accuracy.json
isoflop predict fit.json --compute=1e24 --interval=certificate
isoflop predict fit.json --loss=2.5 --inference_tokens=1e12
isoflop predict fit.json --compute=1e20 --config=optimum.py
isoflop predict published.json --compute=1e20 --config=optimum.py --base_config=configs/lm/ladder.py:1b
"""
WAITING = "forecasting"


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_float("n", None, "Parameters of the run.", flag_values=flags)
    absl_flags.DEFINE_float("d", None, "Training tokens of the run.", flag_values=flags)
    absl_flags.DEFINE_string(
        "at", None, "Values of the law's other columns, as in unique_tokens=1e9,experts=8.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "law", None, "file.py:NAME of the fit's law, if that is not one of isoflop's.", flag_values=flags
    )
    absl_flags.DEFINE_float("compute", None, "Training FLOPs, to be split in the best way.", flag_values=flags)
    absl_flags.DEFINE_enum(
        "interval",
        "mixture",
        ["mixture", "certificate"],
        "With --compute: of the mixture of forms, or whatever mixtures of power laws allow that meet the best runs.",
        flag_values=flags,
    )
    absl_flags.DEFINE_float(
        "tolerance",
        None,
        "With --interval=certificate: relative distance within which the best runs are met; by default from their noise.",
        flag_values=flags,
    )
    absl_flags.DEFINE_float(
        "loss", None, "A loss to be reached by the model that is cheapest to train and use.", flag_values=flags
    )
    absl_flags.DEFINE_float(
        "inference_tokens", 0.0, "With --loss: tokens read and written once it is trained.", flag_values=flags
    )
    absl_flags.DEFINE_float(
        "price_ratio", 1.0, "With --loss: price of a FLOP of inference over one of training.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "downstream_fit",
        None,
        "A fit of what follows from the loss (task_accuracy): forecast that.",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "freeze", None, "Keep the prediction here, with the hashes of its inputs.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "config",
        None,
        "With --compute: write a config here that trains the optimum and smaller budgets below it.",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "base_config",
        None,
        "With --config: FILE[:arg] of the run whose size and duration are set; by default that of the fit's sweep.",
        flag_values=flags,
    )
    absl_flags.DEFINE_integer(
        "rungs",
        4,
        f"With --config: smaller budgets, each 1/{_optimum_config.FACTOR:g} of the one above.",
        flag_values=flags,
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Predict, and freeze if asked."""
    (path,) = _laws.operand(args, "predict", "a fit")
    _laws.on_cpu()
    import laws

    _check_config_flags(flags)
    fit = laws.read_fit(path, flags.law)
    request = {"compute": flags.compute, "n": flags.n, "d": flags.d} | _laws.numbers("at", flags.at)
    if flags.loss is not None:
        others = [
            name
            for name in ("compute", "n", "d", "at", "downstream_fit", "freeze", "config", "interval", "tolerance")
            if flags[name].present
        ]
        if others:
            raise laws.InputError(f"--loss asks for the model that reaches it, and --{others[0]} for something else")
        model = laws.cheapest_model(fit, flags.loss, flags.inference_tokens, flags.price_ratio)
        return Output(dataclasses.asdict(model), "\n".join(_cheapest_lines(model)))
    if flags["inference_tokens"].present or flags["price_ratio"].present:
        raise laws.InputError("--inference_tokens and --price_ratio belong to --loss, the loss to be reached")
    if flags.interval == "certificate":
        return _certificate(fit, flags)
    if flags["tolerance"].present:
        raise laws.InputError("--tolerance belongs to --interval=certificate")
    if flags.downstream_fit and flags.freeze:
        raise laws.InputError("--freeze keeps the forecast of one fit, and --downstream_fit asks for two")
    if flags.downstream_fit:
        upstream, forecast = laws.predict_downstream(fit, laws.read_fit(flags.downstream_fit), **request)
        payload = dataclasses.asdict(forecast) | {"upstream": dataclasses.asdict(upstream)}
        return Output(payload, "\n".join([_headline("upstream ", upstream), *_lines(forecast)]))
    forecast = fit.forecast(**request)
    payload, text = dataclasses.asdict(forecast), _lines(forecast)
    if flags.config:
        written, lines = _write_config(fit, path, flags)
        payload |= {"config": written}
        text += lines
    if flags.freeze:
        command = _laws.typed("predict", flags, args)
        frozen = laws.freeze(fit, flags.freeze, fit_path=path, command=command, **request)
        payload |= {"frozen": flags.freeze, "sha256": frozen.sha256}
        text.append(f"frozen in {flags.freeze} (sha256 {frozen.sha256[:16]})")
    return Output(payload, "\n".join(text))


def _check_config_flags(flags: absl_flags.FlagValues) -> None:
    """Refuse flags about the config of an optimum that do not go together, before a fit is read.

    Raises:
        BadInput: names the flag.
    """
    if not flags.config:
        for name in ("base_config", "rungs"):
            if flags[name].present:
                raise BadInput(f"--{name} belongs to --config, the file to be written")
        return
    others = [name for name in ("n", "d", "downstream_fit", "freeze") if flags[name].present]
    if others or flags.compute is None:
        beside = f", without --{others[0]}" if others else ""
        raise BadInput(f"--config is of the optimum of a budget: give --compute{beside}")
    if flags.rungs < 0:
        raise BadInput(f"--rungs: must not be negative, got {flags.rungs}")
    _optimum_config.check_new(Path(flags.config))


def _write_config(fit: "FitResult", path: str, flags: absl_flags.FlagValues) -> tuple[dict[str, Any], list[str]]:
    """Write the config of the optimum of a budget; its ladder as JSON, and lines for people.

    Args:
        fit: the fit.
        path: its file.
        flags: of the command.
    """
    report, out = fit.report, Path(flags.config)
    table = report.inputs[0].path if report.inputs else None
    base = (
        _base_run.of_config(flags.base_config)
        if flags.base_config
        else _base_run.of_fit(Path(path), table, report.data.run)
    )
    rungs = _optimum_config.ladder(fit, base, flags.compute, flags.rungs, _laws.numbers("at", flags.at))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    notes = [
        f"Fit: {path} (sha256 {digest[:16]}), law {report.law}, {report.n_runs} runs of {table or 'a table'}.",
        f"Base config: {base.source}.",
    ]
    if base.differing:
        notes.append(f"The fitted runs differ in {', '.join(base.differing)} too: here as in the base config.")
    notes += [f"Warning: {text}" for text in rungs[-1].forecast.warnings]
    _optimum_config.write(out, rungs, base, notes)
    ladder = [
        {
            "budget": rung.budget,
            "n": rung.n,
            "n_optimal": rung.forecast.inputs["n"],
            "loss": rung.forecast.value,
            "interval": rung.forecast.interval,
            **rung.point.overrides,
        }
        for rung in rungs
    ]
    top = rungs[-1]
    lines = [
        f"{out}: N {top.n:,} ({top.n / top.forecast.inputs['n']:.2f} of the optimum), and {len(rungs) - 1} smaller "
        f"budgets from {rungs[0].budget:.4g} FLOPs",
        *(printable(note) for note in notes[2:] if not note.startswith("Warning")),
        f"next: isoflop plan --config={out}",
    ]
    return {"path": str(out), "base_config": base.source, "ladder": ladder}, lines


def _certificate(fit: "FitResult", flags: absl_flags.FlagValues) -> Output:
    """The forecast of a budget with the interval of a certificate."""
    from laws import InputError

    others = [name for name in ("n", "d", "at", "downstream_fit", "freeze", "config") if flags[name].present]
    if others or flags.compute is None:
        beside = f", without --{others[0]}" if others else ""
        raise InputError(f"--interval=certificate is of the best loss of a budget: give --compute{beside}")
    forecast = fit.forecast_certificate(flags.compute, flags.tolerance)
    return Output(dataclasses.asdict(forecast), "\n".join(_lines(forecast)))


def _headline(prefix: str, forecast: "Forecast") -> str:
    low, high = forecast.interval
    level = "certificate's" if forecast.certificate else f"{forecast.level:.0%}"
    return f"{prefix}{forecast.observable} {forecast.value:.5g}, {level} interval for one run [{low:.5g}, {high:.5g}]"


def _lines(forecast: "Forecast") -> list[str]:
    lines = [_headline("", forecast)]
    if forecast.mean_interval:
        low, high = forecast.mean_interval
        lines.append(f"of the mean over repeated runs [{low:.5g}, {high:.5g}]")
    split = forecast.split
    intervals = {"n": split.n_interval, "d": split.d_interval} if split else {}
    for variable, value in forecast.inputs.items():
        ends = intervals.get(variable)
        lines.append(f"{variable.upper()} {value:.5g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""))
    for name, value, ends in (("a", split.a, split.a_interval), ("b", split.b, split.b_interval)) if split else ():
        lines.append(f"{name} {value:.5g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""))
    if forecast.frontier:
        low, high = forecast.frontier.mean_interval
        alone_low, alone_high = forecast.frontier.surfaces_interval
        lines.append(
            f"mean by the surfaces [{alone_low:.5g}, {alone_high:.5g}], by the law of the frontier "
            f"{forecast.frontier.value:.5g} [{low:.5g}, {high:.5g}]"
        )
    if forecast.sd_components:
        parts = ", ".join(f"{name} {part:.2%}" for name, part in forecast.sd_components.items())
        lines.append(f"uncertainty: {parts}")
    return [*lines, *(f"warning: {text}" for text in forecast.warnings)]


def _cheapest_lines(model: "CheapestModel") -> list[str]:
    used = f", used for {model.inference_tokens:.4g} tokens" if model.inference_tokens else ""
    lines = [f"cheapest model of loss {model.loss:.5g}{used}"]
    for name, value, ends in (("N", model.n, model.n_interval), ("D", model.d, model.d_interval)):
        span = f", {model.level:.0%} interval [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
        lines.append(f"{name} {value:.5g}{span}")
    lines.append(f"training {model.training_flops:.4g} FLOPs, inference {model.inference_flops:.4g} FLOPs")
    lines.append(
        f"compute-optimal for that loss: N {model.compute_optimal_n:.5g}, D {model.compute_optimal_d:.5g}; trained and "
        f"used as much it costs more, and {model.saving:.2%} of that is saved"
        if model.inference_tokens
        else "without inference it is the compute-optimal one"
    )
    return [*lines, *(f"warning: {text}" for text in model.warnings)]
