"""Costs by convention, peaks, and the count of products in a jaxpr."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from training.accelerators import ACCELERATORS
from training.cost import Cost, count_products, mfu, peak_flops

COST = Cost(
    params={"embedding": 100, "position": 20, "mlp": 300, "head": 7},
    embedding=("embedding", "position"),
    forward={"scores": 40.0, "mlp": 600.0},
    forward_causal={"scores": 22.0, "mlp": 600.0},
    tokens_per_example=10,
    recompute=5.0,
)
A, B = jnp.ones((3, 4)), jnp.ones((4, 4))
PRODUCT = 2 * 3 * 4 * 4


def counted(fn, *args):
    return count_products(jax.make_jaxpr(fn)(*args))


def test_conventions():
    assert COST.params_total == COST.active == 427
    assert COST.params_non_embedding == 307
    assert COST.flops_per_example_6n == 6 * 427 * 10
    assert COST.flops_per_example_6n_non_embedding == 6 * 307 * 10
    assert (COST.flops_forward, COST.flops_backward, COST.flops_exact) == (640, 1280, 1920)
    assert COST.flops_exact_causal == 3 * 622
    assert COST.flops_hardware == 1925
    moved = dataclasses.replace(COST, routing={"dispatch": 10.0, "combine": 10.0})
    assert moved.flops_exact == COST.flops_exact and moved.flops_forward == COST.flops_forward
    assert moved.flops_routing == 2 * 10 + 3 * 10 and moved.flops_hardware == 1925 + 50


def test_products_are_counted_inside_every_nesting():
    def scan(a, b):
        return jax.lax.scan(lambda c, _: (c @ b, None), a, None, length=5)[0].sum()

    def branch(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: (a @ b) @ b, lambda: a @ b)

    assert counted(jnp.matmul, A, B) == PRODUCT
    assert counted(jax.jit(jnp.matmul), A, B) == PRODUCT
    assert counted(scan, A, B) == 5 * PRODUCT
    assert counted(jax.grad(scan, (0, 1)), A, B) == 15 * PRODUCT
    assert counted(jax.grad(jax.checkpoint(scan), (0, 1)), A, B) == 20 * PRODUCT
    assert counted(branch, A, B) == 2 * PRODUCT
    assert counted(jax.vmap(jnp.matmul, (0, None)), jnp.ones((7, 3, 4)), B) == 7 * PRODUCT


def test_weighted_sums_are_not_counted():
    assert counted(jnp.matmul, A, jnp.ones(A.shape[1])) == 0
    assert counted(jax.vmap(jnp.matmul), jnp.ones((7, 3, 4)), jnp.ones((7, 4))) == 0
    assert counted(jnp.matmul, A, jnp.ones((A.shape[1], 1))) == 2 * A.size


def test_products_of_groups_count_each_row_once():
    def grouped(a, b):
        return jax.lax.ragged_dot(a, b, jnp.array([1, 0, 2])).sum()

    kernels = jnp.ones((3, 4, 4))
    assert counted(grouped, A, kernels) == PRODUCT
    assert counted(jax.grad(grouped, (0, 1)), A, kernels) == 3 * PRODUCT


def test_a_custom_gradient_counts_once_forward_and_as_written_backward():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    assert counted(product, A, B) == PRODUCT
    assert counted(jax.grad(lambda a, b: product(a, b).sum(), (0, 1)), A, B) == 3 * PRODUCT


def test_grouped_convolution():
    x, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 3, 12))

    def convolve(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=layout, feature_group_count=2)

    assert counted(convolve, x, kernel) == 2 * (2 * 4 * 4 * 12) * 3 * 3 * 3


def test_a_loop_of_unknown_length_is_refused():
    def loop(a, b):
        return jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ b, a)

    with pytest.raises(ValueError, match="while"):
        counted(loop, A, B)


@pytest.mark.parametrize(
    ("kind", "compute", "matmul", "peak"),
    [
        ("NVIDIA H200", "bfloat16", "default", 989.4e12),
        ("NVIDIA H200", "float32", "default", 494.7e12),
        ("NVIDIA H100 80GB HBM3", "float32", "highest", 66.9e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", "default", 312e12),
        ("TPU v4", "bfloat16", "default", 275e12),
        ("TPU v5 lite", "bfloat16", "default", 197e12),
        ("TPU v5", "bfloat16", "default", 459e12),
        ("TPU v6 lite", "bfloat16", "default", 918e12),
        ("TPU v6 lite", "float32", "default", None),
        ("NVIDIA H200", "float32", "high", None),
        ("cpu", "float32", "default", None),
        ("NVIDIA H300", "bfloat16", "default", None),
    ],
)
def test_peaks_are_known_or_null(kind, compute, matmul, peak):
    assert peak_flops(kind, compute, matmul) == peak


def test_every_peak_names_its_source():
    assert all(len(chip.source) > 10 and chip.peak for chip in ACCELERATORS.values())


def test_mfu():
    assert mfu(1e15, 2.0, 4, 1e15) == pytest.approx(0.125)
    assert mfu(1e15, 2.0, 4, None) is None
