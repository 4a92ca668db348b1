"""Computing in bfloat16, of every family and objective: tables add up in float32, gradients are those of float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_run import every_run, resolved, write_texts
from tiers import tiered

from training import loop, mesh, rng, step_spec
from training.task import resolve as family_of

RUNS = {name: (task, model, data) for name, task, model, data in every_run() if name not in ("toy", "lm size")}
QUICK = ("lm decoder", "lm moe", "vision resnet")
# Of gradients in the two precisions. A token near the border of two experts changes sides; batch norm divides by what is
# small in so few images.
LEAST_COSINE = {"lm moe": 0.9, "vision resnet": 0.9, "vision convnet": 0.9}


@pytest.fixture(scope="module", autouse=True)
def texts(tmp_path_factory):
    """The folder of the texts that the configs name."""
    folder = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_texts()
        (folder / "text.jsonl").write_text((folder / "labels.jsonl").read_text())
        yield


def config(name, compute, **changes):
    task, model, data = RUNS[name]
    if data.get("corpus") == "stdlib":
        data = data | {"corpus": "files", "corpus_args": {"paths": "text.jsonl"}}
    return resolved(task, model, data, precision={"compute": compute}, **changes)


def differentiated(name, compute, initial=jax.jit):
    """The gradient of the loss of a batch as a function of parameters, and parameters, which `initial` evaluates."""
    of_run = config(name, compute)
    task = family_of(of_run.task).build(of_run)
    hyper = step_spec.hyper(of_run, task)
    variables = jax.tree.map(
        lambda leaf: leaf.value if hasattr(leaf, "value") else leaf,
        dict(initial(lambda: dict(task.model.init(rng.key(0, "init"), hyper)))()),
        is_leaf=lambda leaf: hasattr(leaf, "value"),
    )
    params, batch = variables.pop("params"), task.batch(0, slice(0, 8))

    def loss(params):
        total, (sums, _) = task.model.loss(params, variables, batch, rng.key(0, "dropout", 0), hyper)
        return total / sums["weight"]

    return jax.value_and_grad(loss), params


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def zeros(init):
    """As `jax.jit(init)`, but nothing is drawn."""
    return lambda: jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(init))


PLACES = [(name, platform) for name in RUNS for platform in ("cpu", "tpu")]
TRACED = (*QUICK, "lm labels", "lm spans", "lm lstm", "vision vit")


@pytest.mark.parametrize("name, platform", tiered(PLACES, [("lm decoder", "cpu"), *((name, "tpu") for name in TRACED)]))
def test_no_gradient_is_added_up_in_bfloat16(name, platform, monkeypatch):
    """To a table whose rows are read, thousands of them a batch. Of a program before a compiler changes it."""
    monkeypatch.setattr(mesh, "platform", lambda: platform)
    gradient, params = differentiated(name, "bfloat16", zeros)
    jaxpr = jax.make_jaxpr(gradient)(params).jaxpr
    of_leaves = {leaf.shape for leaf in jax.tree.leaves(params)}
    added = [e.outvars[0].aval for e in equations(jaxpr) if e.primitive.name == "scatter-add"]
    assert not [array for array in added if array.shape in of_leaves and array.dtype == jnp.bfloat16]
    assert any(v.aval.dtype == jnp.bfloat16 for e in equations(jaxpr) for v in e.outvars)  # something is in bfloat16


def vector(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@functools.cache
def both(name):
    found = []
    for compute in ("float32", "bfloat16"):
        gradient, params = differentiated(name, compute)
        found.append(jax.jit(gradient)(params))
    return found


@pytest.mark.parametrize("name", tiered(RUNS, ["lm decoder", "vision resnet"]))
def test_losses_and_gradients_are_those_of_float32(name):
    (loss, whole), (half_loss, half) = both(name)
    assert half_loss.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    assert half_loss == pytest.approx(float(loss), rel=0.01)
    a, b = vector(whole), vector(half)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > LEAST_COSINE.get(name, 0.995)
    assert np.linalg.norm(b) == pytest.approx(np.linalg.norm(a), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_training_in_bfloat16_ends_where_float32_does(name, tmp_path):
    alone = {"duration": {"steps": 30}, "log": {"every": 1}, "mesh": {"data": 1}}  # one device
    losses = [
        loop.run(config(name, compute, **alone), tmp_path / compute)["train_loss"]
        for compute in ("float32", "bfloat16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.03, abs=0.01)  # nats: near zero
