"""Local SGD: loss by size and number of replicas that seldom speak to each other."""

from laws.base.array_math import power
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param

SOURCE = "Charles et al. 2025, arXiv 2503.09799"
K = Param("k", "weight")

DILOCO = Law(
    name="diloco",
    formula="L(N, M) = k M^q / N^p",
    source=f"{SOURCE}, section 5: k 19.226, p 0.0985, q 0.0116",
    columns=("n", "replicas"),
    params=(
        K,
        exponent("p", "exponent of size", 0.05, 0.1, 0.2),
        exponent("q", "exponent of replicas", -0.05, 0.0, 0.05, low=-1.0, high=1.0),
    ),
    value=lambda p, x: p["k"] * power(x["n"], -p["p"]) * power(x["replicas"], p["q"]),
    linear=("k",),
)

DILOCO_OFFSET = Law(
    name="diloco_offset",
    formula="L(N, M) = E + k M^q / N^p",
    source=f"{SOURCE}, table 13",
    columns=("n", "replicas"),
    params=(
        K,
        Param("E", "irreducible loss"),
        exponent("p", "exponent of size", 0.05, 0.1, 0.2, 0.4),
        exponent("q", "exponent of replicas", -0.05, 0.0, 0.05, low=-1.0, high=1.0),
    ),
    value=lambda p, x: p["E"] + p["k"] * power(x["n"], -p["p"]) * power(x["replicas"], p["q"]),
    linear=("k", "E"),
)

DILOCO_TILTED = Law(
    name="diloco_tilted",
    formula="L(N, M) = E + k / N^(p - q M)",
    source=f"{SOURCE}, table 13, the form that held out best",
    columns=("n", "replicas"),
    params=(
        K,
        Param("E", "irreducible loss"),
        exponent("p", "exponent of size", 0.05, 0.1, 0.2, 0.4),
        exponent("q", "what a replica takes from it", -0.003, 0.0, 0.003, low=-0.1, high=0.1),
    ),
    value=lambda p, x: p["E"] + p["k"] * power(x["n"], p["q"] * x["replicas"] - p["p"]),
    linear=("k", "E"),
)

LAWS = (DILOCO, DILOCO_OFFSET, DILOCO_TILTED)
