"""Options of XLA's compilers by platform, each with its effect.

Effects are the TPU compiler's estimates; nothing was timed on a chip. All together, on the train step of a decoder of 4
layers of width 2,048 on v5p:4x4x4 (data=4 fsdp=16): 1.86e8 to 1.61e8 cycles, temporaries and bytes on the ring the same
(`python -m benchmarks.compiler_options`). Those beside each option were made for decoders in plain JAX, before this step.
`compiler_options="default"` in a config turns all of them off.
"""

from jax.sharding import Mesh

PRESETS = ("tuned", "default")

TUNED: dict[str, dict[str, str | bool]] = {
    "tpu": {
        # Fusions may hold 48 MiB of the vector memory instead of 16: 8.18e8 to 7.55e8 cycles
        # for 24 layers of width 2,048 on v5p:4x4x4.
        "xla_tpu_scoped_vmem_limit_kib": "49152",
        # Gradients that FSDP splits are scattered as they are summed, instead of summed whole on every device: half the
        # bytes on the ring.
        "xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter": True,
        # On axes of 8 to 32 chips, products in one piece instead of loops over the shards of a gather: an estimated MFU of
        # 0.43 to 0.78 for blocks on v5e:4x4.
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
