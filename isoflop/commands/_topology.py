"""`isoflop plan --topology`: what the compilers of TPUs and GPUs say of each shape of a plan."""

import dataclasses
from typing import Any

from absl import flags as absl_flags
from rich.console import Group
from rich.table import Table

from isoflop.cli import Output
from isoflop.commands._tables import duration
from sweeps import cost_estimate, plan as plans
from training.accelerators import COMPILED
from training.errors import BadInput

SEARCHED = ("mesh", "remat")
GIB = 2**30


def define(flags: absl_flags.FlagValues) -> None:
    """The flags that only concern devices that are not there."""
    absl_flags.DEFINE_string(
        "topology",
        None,
        "Compile every distinct shape for devices that are not there, as in v5p:4x4x4, v5e:16x16*2 (two slices), h100:8 or "
        f"b200:2x8 (nodes x GPUs). Accelerators: {', '.join(COMPILED)}.",
        flag_values=flags,
    )
    absl_flags.DEFINE_enum(
        "fit",
        None,
        ["batch"],
        "With --topology: the largest batch that fits, compiled, not guessed.",
        flag_values=flags,
    )
    absl_flags.DEFINE_list(
        "search",
        [],
        f"With --topology: compile the choices of {' and '.join(SEARCHED)}, best first.",
        flag_values=flags,
    )
    absl_flags.DEFINE_float("price_per_device_hour", None, "With --topology: print a price.", flag_values=flags)


def run(flags: absl_flags.FlagValues, plan: plans.Plan) -> Output:
    """Compile the shapes of a plan for a topology and print what the compiler says."""
    import jax

    from sweeps import compiled_for
    from training import topology

    jax.config.update("jax_platforms", "cpu")  # no device is looked for, only compilers
    if unknown := set(flags.search) - set(SEARCHED):
        raise BadInput(f"--search: {sorted(unknown)[0]!r} is not one of {', '.join(SEARCHED)}")
    if flags.search and flags.fit:
        raise BadInput("--fit and --search: give one of them")
    price = flags.price_per_device_hour
    if price is not None and price <= 0:
        raise BadInput(f"--price_per_device_hour: must be positive, got {price}")
    found = topology.resolve(flags.topology)
    rows = []
    for point in cost_estimate.representatives(plan):
        config = point.config
        assert config is not None
        if flags.fit:
            reports = [compiled_for.largest_batch(config, found)]
        elif flags.search:
            reports = compiled_for.search(config, found, flags.search)
        else:
            reports = [compiled_for.report(config, found)]
        rows += [_row(report, config.derived.steps, price) for report in reports]
    payload = {"name": plan.name, "topology": flags.topology, "runs": len(plan.points), "shapes": rows}
    return Output(payload, _text(payload))


def _row(report: Any, steps: int, price: float | None) -> dict[str, Any]:
    """A report with the hours of one run, by the compiler's estimate, and what they cost."""
    hours = None if report.seconds is None else report.seconds * steps / 3600
    dollars = None if hours is None or price is None else hours * report.devices * price
    return dataclasses.asdict(report) | {"steps": steps, "hours": hours, "price": dollars}


def _text(payload: dict[str, Any]) -> Any:
    table = Table(box=None, pad_edge=False)
    for name in (
        "N",
        "mesh",
        "batch",
        "remat",
        "GiB args",
        "temp",
        "of",
        "eval",
        "cycles",
        "MFU <=",
        "fsdp traffic",
        "compiled",
    ):
        table.add_column(name, justify="right")
    lines = []
    for row in payload["shapes"]:
        gib = {
            key: _number(row[f"{key}_bytes"], 1 / GIB, "{:.2f}")
            for key in ("argument", "temporary", "limit", "evaluation")
        }
        table.add_row(
            f"{row['params']:,}",
            " ".join(f"{axis}={size}" for axis, size in row["mesh"].items()) or "1",
            f"{row['batch_size']}",
            row["remat"] or "",
            gib["argument"],
            gib["temporary"],
            gib["limit"],
            gib["evaluation"],
            _number(row["cycles"], 1, "{:.3g}"),
            _number(row["mfu"], 1, "{:.2f}"),
            _number(row["traffic"], 1, "{:.2f}x"),
            f"{row['compile_seconds']:.0f} s",
        )
        lines += _lines(row)
    notes = ["compiler-estimated; nothing was run. MFU leaves out transfers, kernels and stalls: an upper bound."]
    return Group(table, "", *lines, *notes)


def _lines(row: dict[str, Any]) -> list[str]:
    """What is said of one shape below the table."""
    label, lines = f"N {row['params']:,}", []
    if not row["fits"]:
        lines.append(f"{label}: does not fit: {row['refusal'] or 'more than the memory of a device'}")
    for transfer in row["collectives"]:
        lines.append(
            f"{label}: {transfer['kind']} over {'+'.join(transfer['axes'])}: {transfer['ring_bytes'] / 2**20:,.0f} MiB a "
            f"device and step, {transfer['count']:,.0f} of them"
        )
    if row["kernels"]:
        named = ", ".join(f"{name} x {count:.0f}" for name, count in row["kernels"].items())
        lines.append(f"{label}: kernels without an estimate: {named}")
    if row["left_whole"]:
        largest = max(row["left_whole"], key=row["left_whole"].get)
        total = sum(row["left_whole"].values()) / 2**20
        lines.append(
            f"{label}: {total:,.0f} MiB of parameters are whole on every device, {largest} the largest of them"
        )
    if row["bubble"] is not None:
        lines.append(f"{label}: each stage has nothing to do for {row['bubble']:.0%} of a step, which the cycles hold")
    if row["hours"] is not None:
        cost = "" if row["price"] is None else f", {row['price']:,.0f} at the price given"
        lines.append(
            f"{label}: at least {duration(3600 * row['hours'])} for {row['steps']:,} steps on {row['devices']} devices{cost}"
        )
    return lines


def _number(value: float | None, factor: float, form: str) -> str:
    return "" if value is None else form.format(value * factor)
