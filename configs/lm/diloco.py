"""DiLoCo: four replicas that synchronise every 20 steps, data-parallel training, and replicas x size for the law.

Beside it asynchronous SGD: workers of a parameter server x size.

    isoflop reproduce --config=configs/lm/diloco.py
    isoflop reproduce --config=configs/lm/diloco.py:data_parallel
    isoflop sweep --config=configs/lm/diloco.py:law --workdir=runs/diloco
    isoflop fit runs/diloco --law=diloco --where="outer_optimizer == 'nesterov' and sync_every == 10" --out=diloco.json
    isoflop sweep --config=configs/lm/diloco.py:asynchronous --workdir=runs/asynchronous

The text and the model are those of `make demo`. Inner AdamW at the rule's learning rate, outer Nesterov at 0.7 with
momentum 0.9 (Douillard et al. 2023, arXiv 2311.08105), neither tuned by M or H. In the sweep every size sees 20 tokens a
parameter, in batches of the same 1,024 tokens, of which each of M replicas takes its share. `sync_every` is H; where
`outer_optimizer` is "average" the run is a plain one, which is data-parallel training on the same tokens. The law is that
of Charles et al. (2025, arXiv 2503.09799): loss by size and M, at one H. Workers of the parameter server deliver by
turns, each the gradient of a whole batch.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import baseline, seeds
from configs.lm import demo
from sweeps.design import axis, chain, product

EXPECTED: dict[str, dict[str, Any]] = {
    "": {
        "metric": "loss",
        "mean": 1.431,
        "tolerance": 0.04,
        "measured": "2026-11-23, 2 CPU cores, busy, 377 s of single-core runs",
    },
    "data_parallel": {"metric": "loss"},
}
WIDTHS = (28, 40, 56)
REPLICAS = (1, 2, 4, 8)
EVERY = (10, 50)


def get_config(arg: str = "") -> ConfigDict:
    """The baseline of that name, or the sweep of the law."""
    if arg not in (*EXPECTED, "law", "asynchronous"):
        raise ValueError(f"the argument is data_parallel, law, asynchronous or nothing, got {arg!r}")
    base = demo.base()
    if arg in ("law", "asynchronous"):
        base.batch_size, base.duration = 8, ConfigDict({"tokens_per_param": 20.0})
        sizes, outer = axis("model.width", WIDTHS), axis("replicas.outer.name", ("nesterov",))
        apart = product(sizes, axis("replicas.every", EVERY), axis("replicas.count", REPLICAS), outer)
        behind = product(sizes, axis("async_sgd.workers", REPLICAS))
        design, name = (chain(sizes, apart), "diloco") if arg == "law" else (behind, arg)
        return ConfigDict({"name": name, "base": base, "design": design, **demo.LIMITS})
    base.batch_size, base.model.width, base.duration = 16, 64, ConfigDict({"steps": 3000})
    if not arg:
        base.replicas = ConfigDict({"count": 4, "every": 20, "outer": {"name": "nesterov"}})
    return baseline(f"diloco-{arg}" if arg else "diloco", base, seeds(3), **EXPECTED[arg])
