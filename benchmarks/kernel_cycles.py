"""Static cycles of splash attention on TPUs that are not there, from the bundles that the compiler makes of its kernels.

    python -m benchmarks.kernel_cycles --out benchmarks/results/kernel_cycles.json

The compiler estimates no cycles of Pallas kernels. It writes the bundles of instructions of each, of which a core issues
about one a cycle; waiting for memory is not in them. A kernel is a loop over its grid, whose body has three parts that are
skipped: before the first block of keys (of queries in `dkv`), the product of a block that the mask does not leave out, and
after the last block. Each part counts as often as it runs, the rest of the body at every step of the grid. Causal attention
of `LENGTH` tokens, `HEADS` heads of `WIDTH` features, as `training.nets.tpu` calls it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from training import compiler_options, mesh as meshes, topology
from training.nets import tpu

LENGTH, HEADS, WIDTH = 2048, 16, 128
PASSES = ("fwd", "dq", "dkv")
CORES = {"v5p": 2, "v5e": 1, "v6e": 1}  # of a chip that JAX sees as one device, among which the heads are shared out
DELAY = 4  # bundles behind a branch that are issued before it is taken


class Bundles(NamedTuple):
    """Bundles of a kernel.

    Attributes:
      body: of one step of the grid, all parts taken.
      parts: of those that are skipped at some steps, in their order.
    """

    body: int
    parts: tuple[int, ...]


def read(text: str) -> Bundles:
    """The bundles of a kernel, from the text of its `final_bundles`.

    Raises:
      ValueError: it is not one loop with three parts that are skipped, none of which holds a loop.
    """
    starts: dict[str, int] = {}
    branches: list[tuple[int, str]] = []
    loops: list[int] = []
    for line in text.splitlines():
        match = re.match(r"\s*(0x[0-9a-f]+|0)\s+(LB)?", line)
        if not match:
            continue
        address = int(match[1], 16)
        loops += [address] if match[2] else []
        starts |= dict.fromkeys(re.findall(r"Start(?:/End empty)? region (\d+)", line), address)
        branches += [(address, target) for target in re.findall(r"sbr\.rel \([^)]*\) target = \$region(\d+)", line)]
    back = [(starts[target], address) for address, target in branches if starts.get(target, address) < address]
    ahead = [(at + DELAY + 1, starts[target]) for at, target in branches if starts.get(target, at) > at]
    leaves = [span for span in ahead if not any(span[0] < other[0] <= span[1] for other in ahead)]
    if len(loops) != 1 or len(back) != 1 or len(leaves) != 3:
        raise ValueError(f"a kernel of {len(loops)} loops and {len(leaves)} parts that are skipped")
    (first, last), parts = back[0], tuple(end - begin for begin, end in sorted(leaves))
    return Bundles(last + DELAY + 1 - first, parts)


def cycles(bundles: Bundles, blocks: int, cores: int) -> float:
    """Cycles of a sequence under a causal mask of blocks x blocks."""
    before, product, after = bundles.parts
    rest = bundles.body - sum(bundles.parts)
    of_head = blocks * (before + after) + blocks * (blocks + 1) // 2 * product + blocks**2 * rest
    return of_head * HEADS / cores


def compile_kernels(name: str) -> None:
    """Compile attention and its gradient for one device of a topology; the environment says where the bundles go."""
    jax.config.update("jax_platforms", "cpu")
    mesh = meshes.build({}, topology.resolve(name).devices[:1])
    shape = jax.ShapeDtypeStruct((1, LENGTH, HEADS, WIDTH), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec()))
    total = lambda q, k, v: tpu.attend(q, k, v, None, True, 0).astype(jnp.float32).sum()
    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(total, (0, 1, 2))).lower(shape, shape, shape)
        lowered.compile(compiler_options=compiler_options.of(mesh, "tuned", deterministic=False))


def measured(chip: str) -> dict[str, float]:
    """Cycles of a sequence and layer on a chip, by pass."""
    blocks = LENGTH // tpu.BLOCK
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_emit_annotations=true"
        command = [sys.executable, "-m", "benchmarks.kernel_cycles", "--compile", chip]
        subprocess.run(command, env=os.environ | {"LIBTPU_INIT_ARGS": flags}, check=True)
        found = {}
        for name in PASSES:
            (path,) = Path(folder).glob(f"*-splash_mqa_{name}_*[0-9]-final_bundles.txt")
            found[name] = cycles(read(path.read_text()), blocks, CORES[chip])
    return found


def main() -> None:
    """Measure the chips and write them into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--chip", action="append", choices=list(CORES), help="default: all")
    parser.add_argument("--compile", choices=list(CORES), help="compile and do no more: a process of its own does")
    args = parser.parse_args()
    if args.compile:
        compile_kernels(f"{args.compile}:2x2" + ("x1" if args.compile == "v5p" else ""))
        return
    if args.out is None:
        parser.error("--out is missing")
    for chip in args.chip or CORES:
        rows = json.loads(args.out.read_text()) if args.out.exists() else {}
        rows[chip] = measured(chip)
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(chip, rows[chip])


if __name__ == "__main__":
    main()
