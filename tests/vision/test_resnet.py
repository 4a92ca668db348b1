"""Residual networks: counts, batch norm's state, and the same logits as a network of Torch's layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from training.cost import count_products
from training.errors import BadInput
from vision.resnet import ResNet, check, cost, variant

SMALL = {"classes": 5, "image": (12, 10, 3), "stages": (1, 2), "width": 4}
IMAGES = jax.random.normal(jax.random.key(1), (6, 12, 10, 3))
KINDS = [{}, {"preact": True}, {"bottleneck": True, "stem": "imagenet"}, {"bottleneck": True, "preact": True}]


def drawn(model, random=False):
    """Initial variables; with `random`, nothing in them is zero or one."""
    variables = nn.meta.unbox(jax.jit(functools.partial(model.init, method="parameters"))(jax.random.key(0), 1.0))
    if not random:
        return variables
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [0.7 + 0.3 * leaf + 0.2 * rng.random(leaf.shape, np.float32) for leaf in leaves])


def needed(fn, *args):
    """The jaxpr without what no result depends on: hand-written gradients make that of the images too."""
    closed = jax.make_jaxpr(fn)(*args)
    return partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_parameters_and_products_are_those_counted(kind, norm):
    model = ResNet(**SMALL | {"image": (24, 20, 3)}, **kind, norm=norm)
    images = jnp.zeros((1, 24, 20, 3))
    variables, said = jax.eval_shape(functools.partial(model.init, method="parameters"), jax.random.key(0)), cost(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == said.params_total
    forward = jax.make_jaxpr(lambda v, x: model(v, x))(nn.meta.unbox(variables), images)
    assert count_products(forward) == said.flops_forward

    def total(params, rest, x):
        return model.classify({**rest, "params": params}, x, train=True)[0].sum()

    plain = nn.meta.unbox(variables)
    assert count_products(needed(jax.value_and_grad(total), plain["params"], plain, images)) == said.flops_exact


# Published counts at 224 pixels and 1,000 classes, and on CIFAR-10, in millions (torchvision; He et al. 2015, table 6).
@pytest.mark.parametrize(
    ("name", "image", "classes", "millions"),
    [
        ("18", 224, 1000, 11.69),
        ("34", 224, 1000, 21.80),
        ("50", 224, 1000, 25.56),
        ("20", 32, 10, 0.27),
        ("56", 32, 10, 0.85),
    ],
)
def test_published_sizes(name, image, classes, millions):
    said = cost(ResNet(classes=classes, image=(image, image, 3), **variant(name)))
    assert said.params_total / 1e6 == pytest.approx(millions, abs=0.006)
    if name == "50":
        assert said.flops_forward / 2e9 == pytest.approx(4.09, abs=0.01)  # v1.5, in multiplications


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_begin_as_the_identity(kind):
    """However deep, the features are those of the stem's way through the shortcuts."""
    deep = ResNet(**SMALL | {"stages": (3, 2)}, **kind)
    shallow = ResNet(**SMALL | {"stages": (1, 2)}, **kind)
    variables = drawn(deep)

    def cut(tree):
        stage = {name: block for name, block in tree["stage1"].items() if name == "block1"}
        return tree | {"stage1": stage}

    few = {name: cut(tree) for name, tree in variables.items()}
    one, other = (jax.jit(m.features)(v, IMAGES)[0] for m, v in ((deep, variables), (shallow, few)))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_running_statistics_are_those_of_the_whole_batch():
    model = ResNet(**SMALL, momentum=0.9)
    variables = drawn(model, random=True)
    train = jax.jit(functools.partial(model.classify, train=True))
    logits, stats = train(variables, IMAGES)
    # The stem's: its input is the images themselves.
    from vision.layers import conv

    out = np.asarray(conv(IMAGES, variables["params"]["stem"]["kernel"]), np.float64).reshape(-1, 4)
    old, new = variables["batch_stats"]["stem"]["norm"], stats["batch_stats"]["stem"]["norm"]
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * out.mean(0), rtol=1e-4)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * out.var(0, ddof=1), rtol=1e-4)
    assert jax.tree.structure(stats) == jax.tree.structure({"batch_stats": variables["batch_stats"]})
    # With running ones, an example does not depend on the others; with the batch's own, it does.
    others, score = IMAGES.at[1:].add(1.0), jax.jit(model)
    np.testing.assert_array_equal(score(variables, IMAGES)[0], score(variables, others)[0])
    assert np.abs(train(variables, others)[0][0] - logits[0]).max() > 1e-3


def test_stochastic_depth_drops_whole_branches_and_keeps_the_mean():
    model = ResNet(**SMALL, stochastic_depth=True, norm="group")
    variables, rates = drawn(model, random=True), {"stochastic_depth": jnp.float32(0.5)}
    apply = jax.jit(lambda key, rates: model.features(variables, IMAGES, key, rates, True)[0])
    plain = model.features(variables, IMAGES)[0]
    np.testing.assert_allclose(apply(jax.random.key(0), {"stochastic_depth": jnp.float32(0)}), plain, rtol=1e-4)
    draws = np.stack([apply(jax.random.key(i), rates) for i in range(60)])
    # Of three blocks the first is never dropped, the others with 1/4 and 1/2: four outcomes an example.
    assert max(len(np.unique(draws[:, i].round(3), axis=0)) for i in range(6)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": "tiny"}, "stem: 'tiny' is not one of cifar, imagenet"),
        ({"norm": "layer"}, "norm: 'layer' is not one of batch, group"),
        ({"stages": (2, 0)}, "stages: every stage needs a block"),
        ({"width": 0}, "width: must be at least 1"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        check(ResNet(**SMALL | changes))


def test_wrong_images_and_names_are_refused():
    model = ResNet(**SMALL)
    with pytest.raises(BadInput, match=r"images of \(10, 10, 3\) do not fit a model of \(12, 10, 3\)"):
        model(drawn(model), IMAGES[:, :10])
    with pytest.raises(BadInput, match="no '19'; known: 18, 34, 50, 20, 56"):
        variant("19")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [False, True])
def test_torch(kind, train):
    """With the same weights, a network of Torch's layers gives the same logits and running statistics."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity` (torch and transformers)")
    model = ResNet(**SMALL, **kind)
    variables = drawn(model, random=True)
    kept = {}

    def tensor(x):
        return torch.from_numpy(np.array(x))

    def conv(x, *path, stride=1):
        kernel = tensor(at("params", path)["kernel"]).permute(3, 2, 0, 1)
        return torch.nn.functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def at(kind, path):
        return functools.reduce(lambda tree, name: tree[name], path, variables[kind])

    def norm(x, *path):
        p, stats = at("params", path), at("batch_stats", path)
        layer = torch.nn.BatchNorm2d(x.shape[1], momentum=0.1).train(train)
        for name, value in {"weight": p["scale"], "bias": p["bias"]}.items():
            getattr(layer, name).data = tensor(value)
        layer.running_mean, layer.running_var = tensor(stats["mean"]), tensor(stats["var"])
        out = layer(x)
        kept[path] = layer
        return out

    relu, large = torch.relu, model.stem == "imagenet"
    with torch.no_grad():
        x = conv(tensor(IMAGES).permute(0, 3, 1, 2), "stem", stride=2 if large else 1)
        x = x if model.preact else relu(norm(x, "stem", "norm"))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1) if large else x
        for s, count in enumerate(model.stages, 1):
            for b in range(1, count + 1):
                block, stride = (f"stage{s}", f"block{b}"), 2 if s > 1 and b == 1 else 1
                project = "shortcut" in variables["params"][block[0]][block[1]]
                names = ("conv1", "conv2", "conv3") if model.bottleneck else ("conv1", "conv2")
                strides = (1, stride, 1) if model.bottleneck else (stride, 1)
                if model.preact:
                    y = relu(norm(x, *block, "conv1", "norm"))
                    skip = conv(y, *block, "shortcut", stride=stride) if project else x
                    y = conv(y, *block, "conv1", stride=strides[0])
                    for name, own in zip(names[1:], strides[1:], strict=True):
                        y = conv(relu(norm(y, *block, name, "norm")), *block, name, stride=own)
                    x = skip + y
                else:
                    y, skip = x, x
                    for name, own in zip(names, strides, strict=True):
                        y = norm(conv(y, *block, name, stride=own), *block, name, "norm")
                        y = relu(y) if name != names[-1] else y
                    if project:
                        skip = norm(conv(x, *block, "shortcut", stride=stride), *block, "shortcut", "norm")
                    x = relu(skip + y)
        if model.preact:
            x = relu(norm(x, "final_norm"))
        head = variables["params"]["head"]
        expected = x.mean((2, 3)) @ tensor(head["kernel"]) + tensor(head["bias"])
    logits, stats = model.classify(variables, IMAGES, train=train)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-4, atol=1e-4)
    for path, layer in kept.items():
        found = functools.reduce(lambda tree, name: tree[name], path, stats["batch_stats"])
        np.testing.assert_allclose(found["mean"], layer.running_mean.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["var"], layer.running_var.numpy(), rtol=1e-4, atol=1e-4)
