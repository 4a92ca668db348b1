"""Mixtures of code, prose and documentation: small decoders on 12 mixtures, for the laws of mixtures (docs/mixtures.md).

    isoflop plan --config=configs/lm/mixture.py --nomemory
    isoflop sweep --config=configs/lm/mixture.py --workdir=runs/mixture
    python -m benchmarks.mixture runs/mixture --out=benchmarks/results/mixture.json

Code is the standard library's source, prose the package `anarchism`, documentation `linux-doc-6.1`; Debian packages are
fetched with apt and not installed. Every run makes the same steps with the same model, so that the mixture alone differs.
The centre of the triangle is trained with three seeds, for the noise.
"""

from ml_collections import ConfigDict

from configs.lm import demo
from sweeps.design import chain, label, product, table

CORPORA = {"code": "stdlib", "prose": "debian packages=anarchism", "docs": "debian packages=linux-doc-6.1"}
SHARES = (  # of code, prose and documentation, in twelfths
    *((12, 0, 0), (0, 12, 0), (0, 0, 12)),
    *((6, 6, 0), (6, 0, 6), (0, 6, 6)),
    *((8, 2, 2), (2, 8, 2), (2, 2, 8)),
    (4, 4, 4),
)


def mixture(shares: tuple[float, ...]) -> tuple[tuple[str, float, str], ...]:
    """The value of `data.mixture` of some shares."""
    return tuple((name, share, corpus) for (name, corpus), share in zip(CORPORA.items(), shares, strict=True))


def get_config(arg: str = "") -> ConfigDict:
    """The sweep; with an argument such as 5.5,3,3.5 one mixture of these shares with three seeds."""
    base = demo.base()
    base.data = ConfigDict({"corpus": "mixture", "seq_len": 128, "eval_fraction": 0.1})
    base.model.width = 16
    base.duration = ConfigDict({"flops": 5e10})
    base.evaluation.tokens = 3 * 65_536
    chosen = tuple(float(share) for share in arg.split(",")) if arg else SHARES[-1]
    again = product(table([{"data.mixture": mixture(chosen)}]), ({"seed": 0}, {"seed": 1}, {"seed": 2}))
    if arg:
        return ConfigDict({"name": "mixture", "base": base, "design": again})
    single = table([{"data.mixture": mixture(shares), "seed": 0} for shares in SHARES[:-1]])
    return ConfigDict({"name": "mixture", "base": base, "design": label(chain(single, again), sampled="simplex")})
