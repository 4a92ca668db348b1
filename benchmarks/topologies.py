"""Train steps of large decoders, compiled for TPUs and GPUs that are not there (`isoflop[aot-tpu,aot-gpu]`).

    python -m benchmarks.topologies --out benchmarks/results/topologies.json
    python -m benchmarks.topologies --out benchmarks/results/topologies.json --case 1.4b-v5p-plane

Every figure is the compiler's: nothing was run or timed. On TPUs the compiler writes no cycles on Pallas kernels; those of
splash attention are added, from the bundles of the same kernel for the same shapes (`KERNEL_CYCLES`).
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from sweeps import compiled_for
from training import config as configs, topology
from training.task import resolve as family_of

# Static cycles of a sequence of 2,048 tokens and 16 heads of 128 features in one layer on a v5p, by pass, of blocks of
# 1,024: read from the kernel's dumped bundles (libtpu 0.0.42).
KERNEL_CYCLES = {"fwd": 145e3, "dq": 148e3, "dkv": 196e3}
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
    """What the compiler says of a case, and the cycles and MFU with kernels."""
    config, devices = config_of(case)
    report = compiled_for.report(config, devices)
    row = dataclasses.asdict(report)
    sequences, heads = config.batch_size / report.devices, config.model.heads / 16
    kernels = sum(
        count * sequences * heads * KERNEL_CYCLES[part]
        for name, count in report.kernels.items()
        for part in KERNEL_CYCLES
        if f"_{part}_" in name
    )
    row["kernel_cycles"] = kernels if report.cycles and devices.name.startswith("v5p") else None
    chip = devices.accelerator
    if report.cycles and chip.clock and row["kernel_cycles"] is not None:
        flops = family_of("lm").cost(config).flops_exact_causal * config.batch_size / report.devices
        seconds = (report.cycles + kernels) / chip.clock
        row |= {
            "cycles_with_kernels": report.cycles + kernels,
            "mfu_with_kernels": flops / seconds / chip.peak["bfloat16"],
        }
    return row


def main() -> None:
    """Compile the cases and write each into the file as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    for case in args.case or CASES:
        rows = json.loads(args.out.read_text()) if args.out.exists() else {}
        rows[case] = measured(case)
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
