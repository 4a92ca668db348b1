"""`isoflop predict`: the loss of a run, or the best split of a compute budget, from a fit; frozen if asked."""

from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

SUMMARY = "loss or optimum from a fit, with intervals and the extrapolation factor; --freeze keeps it for `score`"
EXAMPLE = """
isoflop predict fit.json --n=7e9 --d=1.4e11
isoflop predict fit.json --compute=1e12 --freeze=prediction.json
isoflop predict fit.json --n=7e9 --d=1.4e11 --at=unique_tokens=2.5e10
isoflop predict task_loss.json --n=7e9 --d=1.4e11 --then=accuracy.json
"""


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_float("n", None, "Parameters of the run.", flag_values=flags)
    absl_flags.DEFINE_float("d", None, "Training tokens of the run.", flag_values=flags)
    absl_flags.DEFINE_string(
        "at", None, "Values of the law's other columns, as in unique_tokens=1e9,experts=8.", flag_values=flags
    )
    absl_flags.DEFINE_string("law", None, "file.py:NAME of the fit's law, if it is elsewhere now.", flag_values=flags)
    absl_flags.DEFINE_float("compute", None, "Training FLOPs, to be split in the best way.", flag_values=flags)
    absl_flags.DEFINE_string(
        "then", None, "Another fit, of what follows from the loss (task_accuracy): predict that.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "freeze", None, "Keep the prediction here, with the hashes of its inputs.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Predict, and freeze if asked."""
    (path,) = _laws.operand(args, "predict", "a fit")
    _laws.on_cpu()
    from laws import read_fit
    from laws.base.errors import InputError
    from laws.base.json_files import jsonable
    from laws.uses.preregistration import freeze
    from laws.uses.two_stage import predict_downstream

    fitted = read_fit(path, flags.law)
    named = {variable: value for variable, value in (("n", flags.n), ("d", flags.d)) if value is not None}
    request = {"compute": flags.compute} | _laws.numbers("at", flags.at) | named
    if flags.then and flags.freeze:
        raise InputError("--freeze keeps the prediction of one fit, and --then asks for two")
    if flags.then:
        second = read_fit(flags.then)
        return Output(found := jsonable(predict_downstream(fitted, second, **request)), _text(found))
    if flags.freeze:
        frozen = freeze(fitted, flags.freeze, fit_path=path, command=_laws.typed("predict", flags, args), **request)
        found = frozen["prediction"] | {"frozen": flags.freeze, "sha256": frozen["sha256"]}
    else:
        found = jsonable(fitted.predict(**request))
    return Output(found, _text(found))


def _text(found: dict[str, Any]) -> Any:
    level = f"{found['level']:.0%}"
    low, high = found["interval"]
    lines = [f"{found['observable']} {found['loss']:.5g}, {level} interval for one run [{low:.5g}, {high:.5g}]"]
    for name, symbol in (("n", "N"), ("d", "D"), ("upstream_loss", "upstream loss"), ("a", "a"), ("b", "b")):
        ends = found.get(f"{name}_interval")
        if name in found:
            lines.append(f"{symbol} {found[name]:.5g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""))
    if "c" in found:
        lines.append(f"C {found['c']:.5g}")
    if "parts" in found:
        lines.append("uncertainty: " + ", ".join(f"{name} {part:.2%}" for name, part in found["parts"].items()))
    lines += [f"warning: {text}" for text in found["warnings"]]
    if "frozen" in found:
        lines.append(f"frozen in {found['frozen']} (sha256 {found['sha256'][:16]})")
    return "\n".join(lines)
