"""Families side by side: the same text, the same tokens, four sizes each and four durations, half an hour on two cores.

    isoflop sweep --config=configs/sweeps/families_cpu.py --workdir=runs/families
    isoflop sweep --config=configs/sweeps/families_cpu.py:short --workdir=runs/families-short
    isoflop fit runs/families --law=chinchilla --where="family == 'lstm'" --out=lstm.json
    isoflop compare decoder.json lstm.json

The short one has two sizes and two durations. The text and the shapes are those of `make demo`.
The encoder-decoder predicts the second half of every window from the first: its loss stands beside the others'
`loss_second_half`. A mixture of experts has as many active parameters in its MLPs as the decoder of its width.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.lm import demo
from sweeps.design import Design, axis, chain, product

WIDTHS = (16, 24, 32, 48)
TOKENS = (0.5e6, 1.0e6, 2.0e6, 4.0e6)
ATTENTION: dict[str, Any] = {"model.depth": 2, "model.heads": 2, "model.qk_norm": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "decoder": ATTENTION,
    "lstm": {"model.depth": 2},
    "gated_linear": {"model.depth": 2},
    "encoder_decoder": ATTENTION | {"model.depth": 1},  # and an encoder as deep
    "moe": ATTENTION | {"model.experts": 8, "model.experts_per_token": 2},
}


def points(family: str, widths: tuple[int, ...], tokens: tuple[float, ...]) -> Design:
    """The runs of one family."""
    own = [axis("model.name", [family]), *(axis(key, [value]) for key, value in FAMILIES[family].items())]
    found = product(*own, axis("model.width", widths), axis("duration.tokens", tokens))
    if family == "moe":
        found = tuple({**point, "model.mlp_width": 2 * point["model.width"]} for point in found)
    return found


def get_config(arg: str = "") -> ConfigDict:
    """The sweep."""
    if arg not in ("", "short"):
        raise ValueError(f"the argument is short or nothing, got {arg!r}")
    widths, tokens = (WIDTHS[1:3], TOKENS[:2]) if arg else (WIDTHS, TOKENS)
    base = demo.base()
    base.model = ConfigDict({})
    design = chain(*(points(family, widths, tokens) for family in FAMILIES))
    return ConfigDict({"name": f"families{'-short' if arg else ''}", "base": base, "design": design, **demo.LIMITS})
