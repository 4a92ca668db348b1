"""The table of models: counts against trees and jaxprs, classic shapes, sizes, and what the config may not say."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from training.cost import count_products
from training.errors import BadInput
from vision import models
from vision.convnet import ConvNet
from vision.mixer import Mixer
from vision.mlp import MLP

MNIST = ((28, 28, 1), 10)


def section(**given):
    model = models.defaults()
    model.update(given)
    return model


def needed(fn, *args):
    """The jaxpr without what no result depends on: hand-written gradients make that of the images too."""
    closed = jax.make_jaxpr(fn)(*args)
    return partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


@pytest.mark.parametrize(
    "model",
    [
        MLP(7, (6, 5, 3), depth=3, width=8),
        ConvNet(7, (30, 25, 3), depth=3, width=4),
        ConvNet(7, (9, 8, 1), depth=2, width=4, padding="same"),
        Mixer(7, (8, 6, 3), patch=2, depth=2, width=6, mlp_width=10, token_width=5),
    ],
)
def test_parameters_and_products_are_those_counted(model):
    name = {MLP: "mlp", ConvNet: "convnet", Mixer: "mixer"}[type(model)]
    said, images = models.cost(name, model), jnp.zeros((1, *model.image))
    params = nn.meta.unbox(jax.eval_shape(functools.partial(model.init, method="parameters"), jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == said.params_total
    assert count_products(jax.make_jaxpr(model)(params, images)) == said.flops_forward

    def total(params, x):
        return model(params, x).sum()

    assert count_products(needed(jax.value_and_grad(total), params, images)) == said.flops_exact


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"name": "mlp"}, 784 * 500 + 500 + 5010),
        # 32-pool-64-pool-64-dense 64-10 on 28 x 28: 26, 13, 11, 5, 3 pixels wide.
        ({"name": "convnet"}, (9 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 64 + (576 + 1) * 64 + 650),
        ({"name": "resnet", "variant": "20"}, 272_186),
    ],
)
def test_classic_shapes(given, count):
    model = section(**given)
    model.update(models.options(model, *MNIST))
    built = models.build(model, precision(), *MNIST)
    assert models.cost(model.name, built).params_total == count


def precision():
    from training.config import defaults

    return defaults().precision


@pytest.mark.parametrize("name", models.KINDS)
@pytest.mark.parametrize("size", [1e5, 3e6])
def test_a_size_gives_the_nearest_shape(name, size):
    model = section(name=name, size=size)
    shape = models.options(model, *MNIST)
    model.update(shape)
    with pytest.raises(BadInput, match="model.size: the width is given, so no size is left to choose"):
        models.options(model, *MNIST)  # all is given, and the size would be passed over
    model.size = None
    assert models.options(model, *MNIST) == shape
    built = models.build(model, precision(), *MNIST)
    assert models.cost(name, built).params_total == pytest.approx(size, rel=0.25)


@pytest.mark.parametrize(
    ("name", "variant", "millions"), [("vit", "B/16", 86.5), ("mixer", "S/16", 18.5), ("mixer", "B/16", 59.9)]
)
def test_published_sizes(name, variant, millions):
    """At 224 pixels and 1,000 classes (Tolstikhin et al. 2021, table 1; a ViT without a class token)."""
    model, images = section(name=name, variant=variant), ((224, 224, 3), 1000)
    model.update(models.options(model, *images))
    said = models.cost(name, models.build(model, precision(), *images))
    assert said.params_total / 1e6 == pytest.approx(millions, abs=0.1)


def test_keys_that_are_given_agree_with_the_variant_or_are_not_of_it():
    shape = models.options(section(name="resnet", variant="50", stages=(3, 4, 6, 3), norm="group"), (32, 32, 3), 10)
    assert (shape["width"], shape["bottleneck"], shape["norm"]) == (64, True, "group")
    assert models.options(section(variant="Ti/16"), (224, 224, 3), 1000)["depth"] == 12
    contradicts = "model.variant: '50' has stages=.3, 4, 6, 3., width=64, and the config gives stages=.3, 4., width=16 "
    with pytest.raises(BadInput, match=contradicts):
        models.options(section(name="resnet", variant="50", width=16, stages=(3, 4), bottleneck=True), *MNIST)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "resnett"}, "model.name: no 'resnett'.*did you mean 'resnet'"),
        ({"name": "mlp", "patch": 4}, "model.patch is not used by mlp .it uses depth, width"),
        ({"name": "convnet", "stochastic_depth": 0.1}, "model.stochastic_depth: convnet has none"),
        ({"name": "mlp", "variant": "B/16"}, "model.variant: mlp has no published shapes"),
        ({"size": 1e6, "width": 8}, "model.size: the width is given"),
        ({"size": 10.0}, "model.size: 10 parameters are below the smallest shape"),
        ({"width": 0}, "model.width: wants whole numbers of at least 1, got 0"),
        ({"width": 3}, "model.width: 3 features make no heads of an even width"),
        ({"heads": -1}, "model.heads: wants whole numbers of at least 1"),
        ({"name": "mixer", "patch": 0}, "model.patch: wants whole numbers of at least 1"),
        ({"name": "mlp", "depth": 0}, "model.depth: wants whole numbers of at least 1"),
        ({"name": "resnet", "stages": ()}, r"model.stages: wants whole numbers of at least 1, got \(\)"),
        ({"name": "resnet", "stages": (1, 1.5), "size": 1e5}, r"model.stages: wants whole numbers .* got \(1, 1.5\)"),
        ({"name": "resnet", "stages": ("a",)}, "model.stages: wants whole numbers"),
    ],
)
def test_contradictions_are_refused(given, message):
    with pytest.raises(BadInput, match=message):
        models.options(section(**given), *MNIST)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch": 5}, "patch: 5 does not divide the image's 28 pixels"),
        ({"name": "convnet", "depth": 5}, "depth: 5 convolutions leave nothing of 28x28 pixels"),
        ({"name": "convnet", "padding": "full"}, "padding: 'full' is not one of valid, same"),
    ],
)
def test_shapes_that_do_not_fit_the_images_are_refused(given, message):
    model = section(**given)
    model.update(models.options(model, *MNIST))
    with pytest.raises(BadInput, match=message):
        models.build(model, precision(), *MNIST)
