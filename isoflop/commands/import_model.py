"""`isoflop import FOLDER`: a published model as a run directory."""

from pathlib import Path

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput

EXAMPLE = """
isoflop import downloads/gpt2 --workdir=runs/gpt2
isoflop generate runs/gpt2 --prompt="def "
isoflop import downloads/llama --workdir=runs/llama --config=configs/lm/hour.py

Other runs go on from it, or learn from it, with init_from.run=runs/gpt2 or teacher.run=runs/gpt2 in their configs.
"""
WAITING = "importing"


def define(flags: absl_flags.FlagValues) -> None:
    """Flags of the command."""
    absl_flags.DEFINE_string("workdir", None, "The run directory to make.", flag_values=flags)
    absl_flags.DEFINE_string(
        "config",
        None,
        "FILE[:arg]: the text and the precision that the run is evaluated with; its model is replaced. By default the "
        "source of Python's standard library.",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "tokenizer",
        None,
        "bytes, gpt2 or the path of a tokenizer.json; the folder's own by default.",
        flag_values=flags,
    )
    absl_flags.DEFINE_integer(
        "length", None, "Tokens of the run's texts; as many as the model is meant for by default.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Write the run directory, whole or not at all."""
    if len(args) != 1:
        raise BadInput("import: name one folder")
    if not flags.workdir:
        raise BadInput("--workdir: name the run directory to make")
    from ml_collections import ConfigDict

    from isoflop import config_file
    from lm import hf_import_export
    from training.files import new_folder

    source, target = Path(args[0]), Path(flags.workdir)
    config = config_file.load(flags.config) if flags.config else config_file.complete(ConfigDict({"task": "lm"}))
    if "design" in config or config.task != "lm":
        raise BadInput(f"--config: {flags.config} is no config of one run of a language model")
    with new_folder(target) as folder:
        config = hf_import_export.adopt(source, target, folder, config, flags.tokenizer, flags.length)
    derived = config.derived
    payload = {
        "run": str(target),
        "run_id": derived.run_id,
        "parameters": derived.params_total,
        "parent": derived.parent,
    }
    return Output(payload, f"{target}: run {derived.run_id}, {derived.params_total:,} parameters at step 0")
