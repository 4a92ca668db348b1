"""The vision transformer: counts, pools and positions, what is dropped; and the same logits as transformers' ViT."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiered

from training.cost import count_products
from training.errors import BadInput
from training.nets.block_config import clone, compose
from vision.vit import BLOCKS, POOLS, VARIANTS, ViT, check, cost, sincos, variant

SMALL = {**BLOCKS, "classes": 7, "image": (12, 8, 3), "patch": 4, "depth": 2, "width": 16, "heads": 2, "mlp_width": 24}
IMAGES = jax.random.normal(jax.random.key(1), (3, 12, 8, 3))


def drawn(model, scale=1.0):
    """Initial parameters, the head's too, so that logits say something."""
    params = nn.meta.unbox(jax.jit(functools.partial(model.init, method="parameters"))(jax.random.key(0), scale))[
        "params"
    ]
    head = jax.random.normal(jax.random.key(2), params["head"]["kernel"].shape)
    return params | {"head": params["head"] | {"kernel": head}}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("more", [{}, {"positions": "sincos", "registers": 2, "qk_norm": True}])
def test_parameters_and_products_are_those_counted(pool, more):
    model = compose(ViT, **SMALL, pool=pool, **more)
    shapes = jax.eval_shape(functools.partial(model.init, method="parameters"), jax.random.key(0), 1.0)
    params = nn.meta.unbox(shapes)["params"]
    said = cost(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == said.params_total
    jaxpr = jax.make_jaxpr(lambda p, x: model({"params": p}, x))(params, IMAGES[:1])
    assert count_products(jaxpr) == said.flops_forward


# Published counts at 224 pixels and 1,000 classes, in millions.
@pytest.mark.parametrize(("name", "millions"), [("Ti/16", 5.7), ("S/16", 22.1), ("B/16", 86.6), ("L/16", 304.3)])
def test_published_sizes(name, millions):
    model = compose(ViT, classes=1000, image=(224, 224, 3), pool="token", **BLOCKS, **variant(name))
    assert cost(model).params_total / 1e6 == pytest.approx(millions, abs=0.05)


def test_variants_fit_their_heads():
    for depth, width, heads, mlp_width in VARIANTS.values():
        shape = {"depth": depth, "width": width, "heads": heads, "mlp_width": mlp_width}
        check(compose(ViT, classes=1000, image=(224, 224, 3), patch=16, **BLOCKS, **shape))


@pytest.mark.parametrize("pool", POOLS)
def test_patches_matter_and_registers_are_not_read(pool):
    model = compose(ViT, **SMALL, pool=pool, registers=1)
    params = drawn(model)
    apply = jax.jit(lambda params, images: model({"params": params}, images))
    logits = apply(params, IMAGES)
    assert logits.shape == (3, 7)
    for patch in range(6):
        row, column = divmod(patch, 2)
        moved = IMAGES.at[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].add(1.0)
        assert np.abs(apply(params, moved) - logits).max() > 1e-4
    # Without positions, a pool over patches does not know their order; with them it does.
    swapped = jnp.concatenate([IMAGES[:, 4:8], IMAGES[:, :4], IMAGES[:, 8:]], axis=1)
    without_position = params | {"position": {"embedding": jnp.zeros_like(params["position"]["embedding"])}}
    same = functools.partial(apply, without_position)
    np.testing.assert_allclose(same(swapped), same(IMAGES), atol=1e-5)
    assert np.abs(apply(params, swapped) - logits).max() > 1e-5


SWITCHES = [{"scan": True}, {"scan": True, "remat": "dots"}, {"attention": "xla"}]


@pytest.mark.parametrize("switches", tiered(SWITCHES, SWITCHES[1:2]), ids=str)
def test_speed_switches_change_nothing(switches):
    model = compose(ViT, **SMALL, pool="token")
    params, other = drawn(model), clone(model, **switches)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, drawn(other), params))
    graded = lambda m: jax.jit(jax.value_and_grad(lambda p: jnp.sum(m({"params": p}, IMAGES) ** 2)))(params)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)
    jax.tree.map(close, graded(other), graded(model))


def test_stochastic_depth_drops_whole_branches_of_an_example_and_keeps_the_mean():
    model = compose(ViT, **SMALL, stochastic_depth=True)
    params, rates = drawn(model), {"stochastic_depth": jnp.float32(0.5)}
    apply = jax.jit(lambda key, rates: model({"params": params}, IMAGES, key, rates))
    plain = jax.jit(model)({"params": params}, IMAGES)
    np.testing.assert_allclose(apply(jax.random.key(0), {"stochastic_depth": jnp.float32(0)}), plain, atol=1e-5)
    draws = np.stack([apply(jax.random.key(i), rates) for i in range(40)])
    # Only the last of two blocks is dropped: its two branches are there or not, so an example has at most four outcomes.
    assert max(len(np.unique(draws[:, i].round(4), axis=0)) for i in range(3)) == 4


def test_sincos_tells_every_patch_apart():
    table = sincos((5, 3), 16)
    assert table.shape == (15, 16)
    distance = np.linalg.norm(table[:, None] - table[None], axis=-1) + 9 * np.eye(15)
    assert distance.min() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 5}, "patch: 5 does not divide the image's 12 pixels"),
        ({"heads": 3}, "heads: 3 does not divide the width 16"),
        ({"pool": "max"}, "pool: 'max' is not one of token, mean, attention"),
        ({"positions": "sincos", "width": 18}, "sincos needs a width that 4 divides"),
        ({"registers": -1}, "registers: must not be negative"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(BadInput, match=message):
        check(compose(ViT, **SMALL | changes))


def test_wrong_images_and_names_are_refused():
    model = compose(ViT, **SMALL)
    with pytest.raises(BadInput, match=r"images of \(8, 8, 3\) do not fit a model of \(12, 8, 3\)"):
        model({"params": drawn(model)}, IMAGES[:, :8])
    for name in ("X/16", "B", "B/x"):
        with pytest.raises(BadInput, match="known: Ti, S, B, L"):
            variant(name)


def test_transformers():
    """With the weights of a random ViT of transformers, the same logits."""
    reason = "needs the extra `parity` (torch and transformers)"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=24, patch_size=6,
        num_channels=3, num_labels=5, layer_norm_eps=1e-6,
    )  # fmt: skip
    reference = transformers.ViTForImageClassification(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            offset = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0
            weight.copy_(offset + 0.15 * torch.randn(weight.shape, generator=generator))
    w = {name: jnp.asarray(weight.detach().numpy()) for name, weight in reference.named_parameters()}

    def layer(name):
        weight, bias = (
            jnp.stack([w[f"vit.layers.{i}.{name}.{part}"] for i in range(3)]) for part in ("weight", "bias")
        )
        return {"scale": weight, "bias": bias} if "norm" in name else {"kernel": weight.mT, "bias": bias}

    params = {
        "patch": {
            "kernel": w["vit.embeddings.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0).reshape(-1, 32),
            "bias": w["vit.embeddings.patch_embeddings.projection.bias"],
        },
        "class_token": {"embedding": w["vit.embeddings.cls_token"][0]},
        "position": {"embedding": w["vit.embeddings.position_embeddings"][0]},
        "blocks": {
            "attention_norm": layer("layernorm_before"),
            "attention": {
                name: layer(f"attention.{theirs}_proj")
                for name, theirs in {"query": "q", "key": "k", "value": "v", "out": "o"}.items()
            },
            "mlp_norm": layer("layernorm_after"),
            "mlp": {"up": layer("mlp.fc1"), "down": layer("mlp.fc2")},
        },
        "final_norm": {"scale": w["vit.layernorm.weight"], "bias": w["vit.layernorm.bias"]},
        "head": {"kernel": w["classifier.weight"].T, "bias": w["classifier.bias"]},
    }
    model = compose(
        ViT, **BLOCKS, classes=5, image=(24, 24, 3), patch=6, depth=3, width=32, heads=4, mlp_width=48, pool="token",
        activation="gelu_exact",
    )  # fmt: skip
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, drawn(model))
    images = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.as_tensor(images).permute(0, 3, 1, 2)).logits.numpy()
    np.testing.assert_allclose(model({"params": params}, images), expected, atol=1e-4)


@pytest.mark.slow
def test_xla_counts_the_same_at_the_size_of_s():
    """Within 5% of XLA's count of the unrolled training step, which holds element-wise work too."""
    model = compose(ViT, classes=1000, image=(224, 224, 3), pool="token", attention="xla", **BLOCKS, **variant("S/16"))
    params = jax.eval_shape(lambda: drawn(model))
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)

    def total(params, images):
        return jnp.sum(model({"params": params}, images) ** 2)

    found = jax.jit(jax.value_and_grad(total)).lower(params, images).compile().cost_analysis()["flops"]
    assert found == pytest.approx(cost(model).flops_exact, rel=0.05)
