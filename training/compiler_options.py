"""Options of XLA's compilers by platform, each with the effect that was seen.

Effects on TPUs are the compiler's own estimates of a step (`benchmarks/results/topologies.json` where no other source is
named): nothing was timed on a chip. `compiler_options="default"` in a config turns all of them off.
"""

from jax.sharding import Mesh

PRESETS = ("tuned", "default")

TUNED: dict[str, dict[str, str | bool]] = {
    "tpu": {
        # Fusions may hold 48 MiB of the vector memory instead of 16: fewer cycles in products.
        "xla_tpu_scoped_vmem_limit_kib": "49152",
        # Gradients that FSDP splits are scattered as they are summed, instead of summed whole on every device: half the
        # bytes on the ring.
        "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": True,
        # On axes of 8 to 32 chips, products in one piece instead of loops over the shards of a gather.
        "xla_tpu_enable_windowed_einsum_for_all_gather": False,
        "xla_tpu_enable_windowed_einsum_for_reduce_scatter": False,
    },
}


def of(mesh: Mesh, preset: str, deterministic: bool) -> dict[str, str | bool] | None:
    """The options to compile with.

    Args:
      mesh: whose devices are compiled for.
      preset: a name in `PRESETS`.
      deterministic: whether GPUs must sum in one order.
    """
    platform = mesh.devices.flat[0].platform
    options = dict(TUNED.get(platform, {})) if preset == "tuned" else {}
    if deterministic:
        options["xla_gpu_deterministic_ops"] = True
    return options or None
