"""Target sizes to shapes."""

import hypothesis
import pytest
from hypothesis import strategies as st

from lm import shapes
from lm.cost import parameters
from lm.decoder import Decoder
from training.errors import BadInput
from training.nets.block_config import compose

OPEN = dict.fromkeys(shapes.SHAPE)
OPTIONS = {
    "norm": "rms",
    "positions": "rotary",
    "activation": "gelu",
    "tied": True,
    "bias": False,
    "qk_norm": False,
}


def section(**given):
    return {**OPEN, **OPTIONS, **given}


def shape_for(size, model, vocab_size=256, seq_len=128):
    return shapes.shape_for(size, model, lambda shape: total(shape, model, vocab_size, seq_len))


def total(shape, model, vocab_size=256, seq_len=128):
    length = seq_len if model["positions"] == "learned" else 0
    return sum(parameters(compose(Decoder, vocab_size=vocab_size, max_length=length, **{**model, **shape})).values())


@hypothesis.given(
    st.floats(4e3, 1e10),
    st.sampled_from(("gelu", "swiglu")),
    st.booleans(),
    st.sampled_from((None, 2, 5)),
    st.sampled_from((256, 4096)),
)
@hypothesis.settings(max_examples=25, deadline=None)
def test_no_neighbour_on_the_dial_is_nearer(size, activation, tied, depth, vocab_size):
    model = section(activation=activation, tied=tied, depth=depth)
    try:
        shape = shape_for(size, model, vocab_size=vocab_size)
    except BadInput:
        smallest = shape_for(None, section(**{**model, "width": 8}), vocab_size=vocab_size)
        assert size < 0.9 * total(smallest, model, vocab_size)
        return
    ratio = max(total(shape, model, vocab_size) / size, size / total(shape, model, vocab_size))
    for step in (-128, -64, -16, -8, 8, 16, 64, 128):
        if shape["width"] + step < 8:
            continue
        given = section(**{**model, "width": shape["width"] + step})
        if given["width"] not in set(shapes.widths()):
            continue
        other = total(shape_for(None, given, vocab_size=vocab_size), model, vocab_size)
        assert max(other / size, size / other) >= ratio * (1 - 1e-12)
    assert shape["depth"] == (depth or shape["depth"]) >= 2
    assert shape["width"] % (2 * shape["heads"]) == 0


def test_a_size_is_met_closely_at_a_fixed_depth():
    for size in (14e3, 41e3, 80e3, 131e3, 1e6, 1e8, 1e9):
        model = section(depth=2)
        found = total(shape_for(size, model), model)
        assert abs(found / size - 1) < (0.3 if size < 5e4 else 0.13)


def test_the_rule_gives_gpt2_small():
    shape = shape_for(None, section(width=768), vocab_size=50257, seq_len=1024)
    assert shape == shapes.standard("gpt2-small")


@pytest.mark.parametrize(
    ("name", "options", "vocab_size", "seq_len", "published"),
    [
        ("gpt2-small", {"norm": "layer", "positions": "learned", "bias": True}, 50257, 1024, 124_439_808),
        ("gpt2-xl", {"norm": "layer", "positions": "learned", "bias": True}, 50257, 1024, 1_557_611_200),
        ("llama-7b", {"activation": "swiglu", "tied": False}, 32000, 2048, 6_738_415_616),
        ("llama3-8b", {"activation": "swiglu", "tied": False}, 128256, 8192, 8_030_261_248),
    ],
)
def test_standard_shapes_have_the_published_parameter_counts(name, options, vocab_size, seq_len, published):
    assert total(shapes.standard(name), section(**options), vocab_size, seq_len) == published


def test_given_values_are_kept():
    model = section(width=64, kv_heads=2, mlp_width=96)
    shape = shape_for(3e5, model)
    assert (shape["width"], shape["kv_heads"], shape["mlp_width"]) == (64, 2, 96)
    assert shape["depth"] > 2
    grouped = shape_for(1e6, section(kv_heads=3))
    assert grouped["kv_heads"] == 3 and grouped["heads"] % 3 == 0


@pytest.mark.parametrize(
    ("size", "given", "message"),
    [
        (1000, {}, "below the smallest shape"),
        (1e18, {}, "beyond the largest"),
        (1e6, {"width": 64, "depth": 2}, "no size is left"),
        (1e6, {"width": 30, "heads": 4}, "no shape fits"),
        (None, {}, "size or a width"),
        (None, {"width": 32, "heads": 3}, "no even head width"),
        (None, {"width": 32, "heads": 4, "kv_heads": 3}, "kv_heads"),
    ],
)
def test_bad_sizes_are_refused_in_one_line(size, given, message):
    with pytest.raises(BadInput, match=message) as error:
        shape_for(size, section(**given))
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_unknown_standard_shape():
    with pytest.raises(BadInput, match="gpt2-small"):
        shapes.standard("gpt5")
