"""Train steps of large decoders, compiled for TPUs and GPUs that are not there (`isoflop[aot-tpu,aot-gpu]`).

    python -m benchmarks.topologies --out benchmarks/results/topologies.json
    python -m benchmarks.topologies --out benchmarks/results/topologies.json --case 1.4b-v5p-plane
    python -m benchmarks.topologies --out benchmarks/results/topologies.json --kernels

Every figure is the compiler's: nothing was run or timed. On TPUs the compiler writes no cycles on Pallas kernels; those of
splash attention are added, from the bundles of the same kernel for the same shapes (`benchmarks.kernel_cycles`).
`--kernels` compiles nothing: the cycles of kernels in the rows of the file are those that were measured last.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import kernel_cycles
from sweeps import compiled_for
from training import config as configs, topology
from training.task import resolve as family_of

KERNEL_CYCLES = Path(__file__).parent / "results/kernel_cycles.json"
MODEL = {"depth": 24, "width": 2048, "heads": 16, "tied": False, "scan": True, "remat": "named"}
SHARED = {
    "task": "lm",
    "batch_size": 512,
    "duration": {"steps": 1000},
    "data": {"corpus": "markov", "seq_len": 2048, "vocab_size": 50_304, "document_masking": False},
    "evaluation": {"tokens": 524_288, "batch_size": 256},
    "precision": {"compute": "bfloat16"},
}
SEVEN = {"depth": 32, "width": 4096, "heads": 32, "kv_heads": 8, "mlp_width": 14_336, "activation": "swiglu"}
SEVENTY = {
    "depth": 80,
    "width": 8192,
    "heads": 64,
    "kv_heads": 8,
    "mlp_width": 28_672,
    "activation": "swiglu",
    "remat": "full",
}
# Topology, mesh, changes of the model, changes of the rest.
CASES: dict[str, tuple[str, dict[str, int], dict[str, Any], dict[str, Any]]] = {
    "1.4b-v5p-slice": ("v5p:4x4x4", {"data": 1, "fsdp": 64}, {}, {}),
    "1.4b-v5p-plane": ("v5p:4x4x4", {"data": 4, "fsdp": 16}, {}, {}),
    "1.4b-v5p-plane-full": ("v5p:4x4x4", {"data": 4, "fsdp": 16}, {"remat": "full"}, {}),
    "1.7b-v5p-plane-vocabulary": ("v5p:4x4x4", {"data": 4, "fsdp": 16}, {}, {"data": {"vocab_size": 131_072}}),
    "1.3b-v5e": ("v5e:16x16", {"data": 16, "fsdp": 16}, {"width": 1920, "heads": 15}, {}),
    "7b-v5p": ("v5p:8x8x16", {"data": 16, "fsdp": 64}, SEVEN, {"batch_size": 2048, "evaluation": {"batch_size": 1024}}),
    "7b-v6e": ("v6e:16x16", {"data": 16, "fsdp": 16}, SEVEN | {"remat": "full"}, {}),
    "7b-h100": ("h100:8x8", {"data": 8, "fsdp": 8}, SEVEN | {"remat": "full"}, {"batch_size": 128}),
    "70b-v5p": (
        "v5p:8x8x16",
        {"data": 16, "fsdp": 64},
        SEVENTY,
        {"batch_size": 1024, "evaluation": {"batch_size": 1024}},
    ),
    "70b-v6e": ("v6e:16x16", {"data": 1, "fsdp": 256}, SEVENTY, {"batch_size": 256}),
    "70b-h100": ("h100:8x8", {"data": 1, "fsdp": 64}, SEVENTY, {"batch_size": 64}),
    "1.4b-v5p-plane-unrolled": ("v5p:4x4x4", {"data": 4, "fsdp": 16}, {"scan": False, "remat": "none"}, {}),
}


def config_of(case: str) -> tuple[ConfigDict, topology.Topology]:
    """The resolved config of a case and its devices."""
    name, mesh, model, rest = CASES[case]
    given = SHARED | {"model": MODEL | model, "mesh": mesh}
    for key, changes in rest.items():
        given[key] = {**SHARED[key], **changes} if isinstance(changes, dict) else changes  # type: ignore[dict-item]
    return configs.resolve(configs.complete(ConfigDict(given))), topology.resolve(name)


def measured(case: str) -> dict[str, Any]:
    """What the compiler says of a case."""
    return dataclasses.asdict(compiled_for.report(*config_of(case)))


def with_kernels(case: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row of `measured`, with the cycles of its kernels, and cycles and MFU with them; None: there are none."""
    config, devices = config_of(case)
    chip = devices.accelerator
    names = ("kernel_cycles", "cycles_with_kernels", "mfu_with_kernels")
    if not row["cycles"] or not chip.clock:
        return row | dict.fromkeys(names)
    each = json.loads(KERNEL_CYCLES.read_text())[devices.name.partition(":")[0]]
    sequences, heads = config.batch_size / row["devices"], config.model.heads / kernel_cycles.HEADS
    kernels = sum(
        count * sequences * heads * each[part]
        for name, count in row["kernels"].items()
        for part in each
        if f"_{part}_" in name
    )
    flops = family_of("lm").cost(config).flops_exact_causal * config.batch_size / row["devices"]
    seconds = (row["cycles"] + kernels) / chip.clock
    figures = (kernels, row["cycles"] + kernels, flops / seconds / chip.peak["bfloat16"])
    return row | dict(zip(names, figures, strict=True))


def main() -> None:
    """Compile the cases and write each into the file as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--kernels", action="store_true", help="of the rows in the file, with nothing compiled")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    for case in args.case or CASES:
        rows = json.loads(args.out.read_text()) if args.out.exists() else {}
        if args.kernels and case not in rows:
            continue
        rows[case] = with_kernels(case, rows[case] if args.kernels else measured(case))
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(
            case,
            {
                key: rows[case].get(key)
                for key in ("cycles_with_kernels", "mfu_with_kernels", "temporary_bytes", "traffic")
            },
        )


if __name__ == "__main__":
    main()
