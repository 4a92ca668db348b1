"""`isoflop plot`: the figures of a fit, as PNG and SVG."""

from absl import flags as absl_flags

from isoflop.cli import Output
from isoflop.commands import _laws

EXAMPLE = "isoflop plot fit.json --out=figures"
WAITING = "drawing"


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_string("out", "figures", "Folder of the figures.", flag_values=flags)
    absl_flags.DEFINE_string(
        "curves", None, "Learning curves; curves.parquet beside the fit's table.", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "law", None, "file.py:NAME of the fit's law, if that is not one of isoflop's.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Draw every figure that the fit has data for."""
    (path,) = _laws.operand(args, "plot", "a fit")
    _laws.on_cpu()
    import laws

    fitted = laws.read_fit(path, flags.law)
    table = fitted.report.inputs[0].path if fitted.report.inputs else None
    curves = flags.curves or _laws.curves_beside(table)
    files = [str(file) for file in fitted.plot_all(flags.out, laws.load_curves(curves) if curves else None)]
    return Output({"figures": files}, "\n".join(files))
