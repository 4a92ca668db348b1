"""What each option of the TPU's compiler changes in a train step, compiled for devices that are not there.

    python -m benchmarks.compiler_options --out benchmarks/results/compiler_options.json [--case v5p]

The same step with all options of `training.compiler_options`, without each, and with none: the compiler's estimate of its
cycles (kernels and transfers left out), temporaries of a device, and bytes on the ring by collective. Nothing is timed.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from training import compiler_options, config as configs, data, hlo, mesh as meshes, step as steps, step_spec, topology
from training.task import resolve as family_of

MODEL = {"depth": 4, "width": 2048, "heads": 16, "tied": False, "scan": True, "remat": "named"}
# Topology, mesh, windows of 2,048 tokens a device.
CASES: dict[str, tuple[str, dict[str, int], int]] = {
    "v5p": ("v5p:4x4x4", {"data": 4, "fsdp": 16}, 8),
    "v5e": ("v5e:4x4", {"data": 1, "fsdp": 16}, 2),
}
TOGETHER = ("xla_tpu_enable_windowed_einsum_for_all_gather", "xla_tpu_enable_windowed_einsum_for_reduce_scatter")


def variants() -> dict[str, dict[str, str | bool]]:
    """Options by what is left out of them; those of gathers and scatters in loops go together."""
    tuned = compiler_options.TUNED["tpu"]
    groups = [TOGETHER, *((name,) for name in tuned if name not in TOGETHER)]
    without = {" and ".join(names): {k: v for k, v in tuned.items() if k not in names} for names in groups}
    return {"nothing": dict(tuned), **without, "all": {}}


def measured(case: str, options: dict[str, str | bool]) -> dict[str, Any]:
    """What the compiler says of a case under these options."""
    name, mesh, windows = CASES[case]
    devices = topology.resolve(name)
    given = {
        "task": "lm",
        "batch_size": windows * len(devices.devices),
        "duration": {"steps": 1000},
        "data": {"corpus": "markov", "seq_len": 2048, "vocab_size": 50_304, "document_masking": False},
        "evaluation": {"batch_size": len(devices.devices)},
        "model": MODEL,
        "mesh": mesh,
        "precision": {"compute": "bfloat16"},
    }
    steps.programs.cache_clear()
    with mock.patch.dict(compiler_options.TUNED, {"tpu": options}):
        return {"options": options} | _compiled(configs.resolve(configs.complete(ConfigDict(given))), devices)


def _compiled(config: ConfigDict, devices: topology.Topology) -> dict[str, Any]:
    """Figures of the train step, or why the compiler refuses it."""
    task, mesh = family_of(config.task).build(config), meshes.build(config.mesh, devices.devices)
    spec, shapes = step_spec.of(task.model, config), data.shapes(task, config.batch_size)
    train = steps.programs(spec, mesh, 1, shapes, tuple(step_spec.hyper(config, task))).train
    try:
        compiled = train.lower().compile()
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"cycles": None, "temporary_bytes": None, "collectives": [], "refusal": str(error).splitlines()[0]}
    memory: Any = compiled.memory_analysis()
    return figures(compiled.as_text() or "", memory.temp_size_in_bytes, mesh)


def figures(text: str, temporary_bytes: float, mesh: Mesh) -> dict[str, Any]:
    """Figures of a compiled program, from its text."""
    program = hlo.computations(text)
    times = hlo.executions(program)
    collectives = [dataclasses.asdict(row) for row in hlo.collectives(program, times, mesh)]
    return {"cycles": hlo.cycles(program, times), "temporary_bytes": temporary_bytes, "collectives": collectives}


def ring_bytes(row: dict[str, Any]) -> float:
    """Bytes that a device sends along the axis "fsdp"."""
    return sum(one["ring_bytes"] for one in row["collectives"] if "fsdp" in one["axes"])


def main() -> None:
    """Compile the variants and write each into the file as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--without", action="append", choices=list(variants()), help="default: all of these")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    for case in args.case or CASES:
        for left_out, options in variants().items():
            if args.without and left_out not in args.without:
                continue
            rows = json.loads(args.out.read_text()) if args.out.exists() else {}
            row = rows.setdefault(case, {})[left_out] = measured(case, options)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
            print(case, "without", left_out, row["cycles"], row["temporary_bytes"], ring_bytes(row), flush=True)


if __name__ == "__main__":
    main()
