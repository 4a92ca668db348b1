"""`isoflop doctor`: what this machine offers, and what is wrong with it."""

import importlib.metadata
import importlib.util
from pathlib import Path

from absl import flags as absl_flags

from isoflop.cli import Output

EXAMPLE = "isoflop doctor\nisoflop doctor --json"

PACKAGES = ("isoflop", "training", "lm", "vision", "sweeps", "laws", "conditions", "configs")


def define(flags: absl_flags.FlagValues) -> None:
    """No flags of its own."""
    del flags


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Look around; nothing is changed."""
    del flags, args
    import jax

    from lm.tokens import cache_dir
    from training import compilation, cost, environment

    device = jax.devices()[0]
    problems = environment.warnings_of() + foreign_packages()
    peak = cost.peak_flops(device.device_kind, "bfloat16")
    payload = {
        "backend": jax.default_backend(),
        "device_kind": device.device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "peak_bfloat16_flops": peak,
        "versions": {"isoflop": importlib.metadata.version("isoflop"), **environment.versions()},
        "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
        "git_revision": environment.git_revision(),
        "cache": str(_data_cache(cache_dir)),
        "compilation_cache": str(compilation.folder()),
        "problems": problems,
    }
    rows = [
        ("devices", f"{payload['num_devices']} x {device.device_kind} ({payload['backend']})"),
        ("peak, bfloat16", f"{peak / 1e12:.0f} TFLOP/s" if peak else "unknown: MFU will be null"),
        ("matmul precision", payload["matmul_precision"]),
        ("data cache", payload["cache"]),
        ("compilation cache", payload["compilation_cache"]),
        ("code", payload["git_revision"] or "no git checkout"),
        *payload["versions"].items(),
    ]
    width = max(len(name) for name, _ in rows)
    text = "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
    text += "".join(f"\nPROBLEM  {problem}" for problem in problems) or "\nno problems found"
    return Output(payload, text, 1 if problems else 0)


def foreign_packages() -> list[str]:
    """A line for each of our packages that Python would import from elsewhere than beside this file."""
    home = Path(__file__).parents[2]
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    places = {name: Path(spec.origin).parent for name, spec in specs.items() if spec and spec.origin}
    return [
        f"the package {name!r} is imported from {place}, not from {home}: another project has the same name"
        for name, place in places.items()
        if place.parent != home
    ] + [f"the package {name!r} is missing from the installation" for name, spec in specs.items() if spec is None]


def _data_cache(cache_dir) -> Path:
    from lm.tokens import defaults

    return cache_dir(defaults())
