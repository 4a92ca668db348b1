"""What a run costs: parameters by component, FLOPs by convention, peaks of devices, and the products of a jaxpr.

A product of matrices (m, k) and (k, n) costs 2 m n k FLOPs. A convolution costs 2 a place of its output, tap of its kernel,
and pair of channels; taps on a zero border count, as they do in published figures. Element-wise work is not counted, so
the numbers are exact statements about the products of a program, whatever compiles it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jax.extend import core

from training.accelerators import by_kind


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one model; every FLOP count is per training example.

    Attributes:
      params: parameters by component.
      embedding: the components that the non-embedding count leaves out.
      forward: FLOPs of the forward products by component, full attention.
      forward_causal: the same with the products of attention that a causal mask keeps.
      tokens_per_example: tokens (patches, ...) of an example.
      params_active: parameters that one token uses; None: all of them.
      recompute: FLOPs of the forward products that rematerialisation repeats in the backward pass.
      from_data: FLOPs of the forward products of which one factor is the data, or made of whole numbers: nobody needs its
        gradient.
      teacher: FLOPs of the forward products of a teacher, which is not trained.
      routing: FLOPs of the forward products that only send tokens to experts ("dispatch", whose one factor is made of whole
        numbers) and bring them back ("combine"): work of one implementation, not of the model, so `flops_exact` leaves it
        out.
    """

    params: Mapping[str, int]
    embedding: tuple[str, ...]
    forward: Mapping[str, float]
    forward_causal: Mapping[str, float]
    tokens_per_example: int
    params_active: int | None = None
    recompute: float = 0.0
    from_data: float = 0.0
    teacher: float = 0.0
    routing: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def params_total(self) -> int:
        """All parameters."""
        return sum(self.params.values())

    @property
    def params_non_embedding(self) -> int:
        """Parameters outside the embedding components; an untied head counts (Kaplan et al. 2020, section 2.1)."""
        return self.params_total - sum(self.params[name] for name in self.embedding)

    @property
    def active(self) -> int:
        """Parameters that one token uses."""
        return self.params_total if self.params_active is None else self.params_active

    @property
    def flops_per_example_6n(self) -> float:
        """6 N a token, N all parameters (Hoffmann et al. 2022), those of experts that a token skips among them."""
        return 6.0 * self.params_total * self.tokens_per_example

    @property
    def flops_per_example_6n_non_embedding(self) -> float:
        """6 N a token, N the non-embedding parameters (Kaplan et al. 2020)."""
        return 6.0 * self.params_non_embedding * self.tokens_per_example

    @property
    def flops_forward(self) -> float:
        """Forward products, full attention."""
        return float(sum(self.forward.values()))

    @property
    def flops_backward(self) -> float:
        """Backward products, full attention: the gradients with respect to both factors of every forward product, but for
        those with respect to the data."""
        return 2 * self.flops_forward - self.from_data

    @property
    def flops_exact(self) -> float:
        """Training products, full attention: 3 times forward, but for the gradient of the data; and a teacher's, forward."""
        return self.flops_forward + self.flops_backward + self.teacher

    @property
    def flops_exact_causal(self) -> float:
        """Training products that a causal mask keeps; a teacher's are counted in full."""
        return 3.0 * sum(self.forward_causal.values()) - self.from_data + self.teacher

    @property
    def flops_routing(self) -> float:
        """Training products that only move tokens to experts and back."""
        return 2.0 * self.routing.get("dispatch", 0.0) + 3.0 * self.routing.get("combine", 0.0)

    @property
    def flops_hardware(self) -> float:
        """Training products with those that rematerialisation repeats and those that only move tokens."""
        return self.flops_exact + self.recompute + self.flops_routing


_FLOAT32_RUNS_AS = {
    "default": "tensorfloat32",
    "tensorfloat32": "tensorfloat32",
    "highest": "float32",
    "float32": "float32",
    "bfloat16": "bfloat16",
}


def peak_flops(device_kind: str, compute: str, matmul: str = "default") -> float | None:
    """Peak FLOP/s of one device for products of the compute dtype; None where no figure is known.

    Args:
      device_kind: `jax.Device.device_kind`.
      compute: the compute dtype's name.
      matmul: `jax_default_matmul_precision`. On NVIDIA chips float32 products run as TensorFloat-32 by default; only
        "highest" and "float32" keep them whole. Float32 made of several bfloat16 passes, as on TPUs, has no figure.
    """
    chip = by_kind(device_kind)
    if chip is None:
        return None
    return chip.peak.get(_FLOAT32_RUNS_AS.get(matmul, "") if compute == "float32" else compute)


def mfu(flops: float, seconds: float, devices: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): the share of the peak; None where it is unknown.

    Args:
      flops: the model's FLOPs in that time over all devices, without recomputation.
      seconds: wall time.
      devices: number of devices.
      peak: peak FLOP/s of one device.
    """
    return None if peak is None or seconds <= 0 else flops / (seconds * devices * peak)


def count_products(jaxpr: Any) -> float:
    """FLOPs of every `dot_general`, `ragged_dot` and convolution in a (closed) jaxpr, whatever it is nested in.

    A product with a vector is a weighted sum, as in the gradient of a norm, and counts as little as any other sum: nothing.
    The body of a scan counts as often as it runs; a conditional as its dearest branch.

    Raises:
      ValueError: products inside a while loop, whose length a jaxpr does not tell.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return float(sum(_products(equation) for equation in jaxpr.eqns))


def _products(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        axes = list(zip(*params["dimension_numbers"], strict=True))  # of either factor: contracted, of the batch
        if any(var.aval.ndim == sum(map(len, known)) for var, known in zip(equation.invars, axes, strict=True)):
            return 0.0
        contracted, left = axes[0][0], equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "ragged_dot_general":
        # Every row meets the matrix of its own group alone. Where rows are summed over, in gradients of the matrices, each
        # row enters the sum of one group.
        numbers, left = params["ragged_dot_dimension_numbers"], equation.invars[0].aval.shape
        (contracted, _), _ = numbers.dot_dimension_numbers
        each = 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        summed = numbers.lhs_ragged_dimensions[0] in contracted
        return each / equation.invars[2].aval.shape[-1] if summed else each
    if name == "conv_general_dilated":
        # Each output element sums over a kernel window of the input features of its group. Where the output has more
        # places than the input, as in gradients with respect to it, each place of the input meets the window instead
        # (of images narrower than their kernel, gradients come out below what was counted forward).
        left, kernel, out = *(var.aval.shape for var in equation.invars[:2]), equation.outvars[0].aval.shape
        numbers = params["dimension_numbers"]
        places = zip(numbers.lhs_spec[2:], numbers.out_spec[2:], strict=True)
        share = math.prod(min(left[i], out[o]) / out[o] for i, o in places)
        return 2.0 * share * math.prod(out) * math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    inner = [count_products(part) for value in params.values() for part in _jaxprs(value)]
    if not any(inner):
        return 0.0
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while":
        raise ValueError("count_products: products inside a while loop, whose number of turns is unknown")
    if name in ("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_jvp_call"):
        return inner[0]  # the function itself; its rules are callables or run only when differentiated
    return sum(inner)


def _jaxprs(value: Any) -> list[Any]:
    if isinstance(value, core.ClosedJaxpr | core.Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [part for item in value for part in _jaxprs(item)]
    return []
