"""The comparison of attention kernels with the definition before a run: right ones pass, wrong ones are named."""

import functools

import jax
import jax.numpy as jnp
import pytest
import toy

from training import loop
from training.errors import RunFailed
from training.nets import attention, kernel_check, tpu
from training.nets.attention import Kernel

SPLASH = Kernel("splash", 2, 128, "bfloat16", True, 0, True)


def interpreted(q, k, v, segments, name, causal, window):
    """The kernel of TPUs by JAX's interpreter."""
    assert name == "splash"
    return tpu.attend(q, k, v, segments, causal, window, interpret=True)


def plain(q, k, v, segments, name, causal, window):
    """A stand-in for a kernel that is right."""
    return attention.attend(q, k, v, segments, "xla", causal, window=window)


@pytest.mark.parametrize(
    "changes", [{}, {"causal": False, "segmented": False, "group": 1}, {"window": 40, "dtype": "float32"}]
)
def test_a_kernel_that_is_right_passes(changes):
    kernel = SPLASH._replace(**changes)
    kernel_check.check(kernel, interpreted)
    assert max(kernel_check.deviations(kernel, interpreted).values()) < 0.02


def unmasked(q, k, v, segments, name, causal, window):
    return plain(q, k, v, None, name, causal, window)


def one_key_too_many(q, k, v, segments, name, causal, window):
    return plain(q, k, v, segments, name, causal, window + 1)


def unscaled(q, *others, **options):
    return plain(q * q.shape[-1] ** 0.5, *others, **options)


@jax.custom_vjp
def gradient_lost(x):
    return x


gradient_lost.defvjp(lambda x: (x, None), lambda _, grad: (0.8 * grad,))


def wrong_gradient(q, k, v, *others, **options):
    return plain(q, gradient_lost(k), v, *others, **options)


def not_a_number(*inputs, **options):
    return jnp.nan * plain(*inputs, **options)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (unmasked, "values|gradients"),
        (one_key_too_many, "values|gradients"),
        (unscaled, "values|gradients"),
        (wrong_gradient, "gradients of the keys"),
        (not_a_number, "values"),
    ],
)
def test_a_kernel_that_is_wrong_is_one_line_that_names_the_key(wrong, named):
    with pytest.raises(
        RunFailed, match=rf"heads of 128 features in bfloat16 on cpu is off by \S+ in its .*({named})"
    ) as told:
        kernel_check.check(SPLASH._replace(window=40), wrong)
    assert str(told.value).endswith(": model.attention=xla") and "\n" not in str(told.value)


def test_a_kernel_that_does_not_compile_is_one_line_too():
    def refused(*inputs, **options):
        raise NotImplementedError("no such layout\n  at mosaic.cc:12")

    with pytest.raises(RunFailed, match=r"on cpu fails \(no such layout\): model.attention=xla$"):
        kernel_check.check(SPLASH, refused)


def test_what_a_process_traced_is_checked_once_where_its_devices_can_run_it(monkeypatch):
    monkeypatch.setattr(attention, "kernels_used", set())
    monkeypatch.setattr(kernel_check, "_checked", set())
    q = jax.ShapeDtypeStruct((2, 256, 4, 128), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((2, 256, 2, 128), jnp.bfloat16)
    jax.eval_shape(lambda q, k, v: attention.attend(q, k, v, None, "splash", window=64), q, kv, kv)
    jax.eval_shape(lambda q, k, v: attention.attend(q, k, v, None, "xla"), q, kv, kv)
    assert attention.kernels_used == {Kernel("splash", 2, 128, "bfloat16", True, 64, False)}
    calls = []

    def counted(*inputs, **options):
        calls.append(inputs)
        return interpreted(*inputs, **options)

    kernel_check.check_used(counted)  # the devices are CPUs
    assert not calls
    kernel_check.check_used(counted, "tpu")
    seen = len(calls)
    assert seen
    kernel_check.check_used(counted, "tpu")
    assert len(calls) == seen


def test_a_run_does_not_begin_with_a_kernel_that_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "kernels_used", {SPLASH})
    monkeypatch.setattr(kernel_check, "_checked", set())
    monkeypatch.setattr(loop.kernel_check, "check_used", functools.partial(kernel_check.check_used, unmasked, "tpu"))
    with pytest.raises(RunFailed, match="model.attention=xla"):
        loop.run(toy.config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
