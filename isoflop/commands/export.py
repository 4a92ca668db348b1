"""`isoflop export RUN`: a run's model as something that other programs load."""

import shutil
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput, nearest

LOADING = """
import pathlib, jax.export, numpy as np

folder = pathlib.Path("exported")
model = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
weights = dict(np.load(folder / "weights.npz"))
logits = model.call(weights, np.zeros((2, 16), np.int32))
"""
EXAMPLE = f"""
isoflop export runs/small --out=exported
isoflop export runs/digits --out=exported --batch=16 --platforms=cpu
isoflop export runs/llama --out=for_transformers --format=llama

The first, in a process that has only jax, flatbuffers and numpy (export.json says what goes in):
{LOADING}"""
WAITING = "exporting"
FORMATS = ("stablehlo", "gpt2", "llama", "mixtral")


def define(flags: absl_flags.FlagValues) -> None:
    """Flags of the command."""
    absl_flags.DEFINE_string("format", FORMATS[0], f"One of {', '.join(FORMATS)}.", flag_values=flags)
    absl_flags.DEFINE_string("out", None, "The folder to make.", flag_values=flags)
    absl_flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.", flag_values=flags)
    absl_flags.DEFINE_integer("batch", None, "Of stablehlo: rows; any number by default.", flag_values=flags)
    absl_flags.DEFINE_integer(
        "length", None, "Of stablehlo: tokens of a row; any number by default.", flag_values=flags
    )
    absl_flags.DEFINE_list(
        "platforms", ["cpu", "cuda", "tpu"], "Of stablehlo: where it can run, with commas.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Load the checkpoint and write the folder, whole or not at all."""
    if len(args) != 1:
        raise BadInput("export: name one run directory")
    if not flags.out:
        raise BadInput("--out: name the folder to make")
    if flags.format not in FORMATS:
        raise BadInput(f"--format: {flags.format!r} is not one of {', '.join(FORMATS)}{nearest(flags.format, FORMATS)}")
    from training import checkpoint, load
    from training.files import new_folder

    run, out = Path(args[0]), Path(flags.out)
    config, steps = load.config_of(run), checkpoint.saved_steps(run)
    if not steps:
        raise BadInput(f"{run}: has no checkpoint")
    step = max(steps) if flags.step is None else flags.step
    with new_folder(out) as folder:
        record = (_program if flags.format == "stablehlo" else _layout)(run, config, step, folder, flags)
    return Output({"out": str(out), **record}, f"{out}: {record['summary']}")


def _program(run: Path, config: Any, step: int, folder: Path, flags: absl_flags.FlagValues) -> dict[str, Any]:
    """StableHLO and the weights beside it."""
    from training import checkpoint, export, load
    from training.cache import sha256
    from training.task import resolve as family_of

    export.check_platforms(flags.platforms)
    for name, size in (("batch", flags.batch), ("length", flags.length)):
        if size is not None and size < 1:
            raise BadInput(f"--{name}: must be at least 1, got {size}")
    forward = family_of(config.task).forward(config, flags.batch, flags.length)
    params = load.parameters(run, config, forward.variables, step)
    stats = checkpoint.load_part(run, "stats", step)
    exported, weights = export.program(forward, params, stats, flags.platforms, config.precision.matmul)
    record = {
        "run_id": config.derived.run_id,
        "step": step,
        "task": config.task,
        "model": config.model.name,
        "precision": config.precision.to_dict(),
        "config_sha256": sha256(run / "config.json"),
        "tokenizer_hash": _tokenizer_hash(run),
        **export.described(forward, exported),
    }
    export.save(folder, exported, weights, record)
    tokenizer = run / "tokenizer.json"
    if tokenizer.is_file():
        shutil.copyfile(tokenizer, folder / tokenizer.name)
    total = sum(array.size for array in weights.values())
    inputs = ", ".join(f"{i.name} {i.dtype} ({', '.join(map(str, i.shape))})" for i in forward.inputs)
    return record | {"summary": f"{total:,} weights; reads {inputs}; runs on {', '.join(flags.platforms)}"}


def _tokenizer_hash(run: Path) -> str | None:
    from training.files import read_object

    path = run / "environment.json"
    return read_object(path).get("tokenizer_hash") if path.is_file() else None


def _layout(run: Path, config: Any, step: int, folder: Path, flags: absl_flags.FlagValues) -> dict[str, Any]:
    """A folder that transformers loads."""
    from lm import hf_import_export

    for name in ("batch", "length"):
        if flags[name].value is not None:
            raise BadInput(f"--{name}: of stablehlo alone")
    written = hf_import_export.export(run, config, step, flags.format, folder)
    return written | {"summary": f"{written['parameters']:,} parameters for {written['architecture']} of transformers"}
