"""What to train with: the best learning rate and batch by size, data and compute, and the critical batch."""

from dataclasses import replace

from laws.base.array_math import log, power
from laws.model.forms.allocation import CHINCHILLA
from laws.model.forms.start_values import along, exponent
from laws.model.law import Law, Param

RATE, BATCH = "learning rate", "batch (tokens)"
K = Param("k", "weight")

LEARNING_RATE = Law(
    name="lr_step",
    formula="lr(N, D) = k D^q / N^p",
    source="Li et al. 2025, arXiv 2503.04715, equation 1: 1.79, p 0.713, q 0.307; N without the vocabulary",
    columns=("n", "d"),
    params=(
        K,
        exponent("p", "exponent of size", 0.1, 0.4, 0.7, 1.0, low=-1.0, high=3.0),
        exponent("q", "exponent of data", -0.2, 0.0, 0.3, 0.6, low=-2.0, high=2.0),
    ),
    value=lambda p, x: p["k"] * power(x["n"], -p["p"]) * power(x["d"], p["q"]),
    linear=("k",),
    observable=RATE,
    of_optimum=True,
)

BATCH_BY_DATA = Law(
    name="batch_step",
    formula="B(D) = k D^r",
    source="Li et al. 2025, arXiv 2503.04715, equation 1: 0.58, r 0.571",
    columns=("d",),
    params=(K, exponent("r", "exponent of data", 0.2, 0.4, 0.6, 0.8)),
    value=lambda p, x: p["k"] * power(x["d"], p["r"]),
    linear=("k",),
    observable=BATCH,
    of_optimum=True,
)

RATE_BY_COMPUTE = Law(
    name="lr_deepseek",
    formula="lr(C) = k / C^p",
    source="DeepSeek-AI 2024, arXiv 2401.02954, equation 1: 0.3118, p 0.1250; C without embeddings",
    columns=("c",),
    params=(K, exponent("p", "exponent of compute", 0.05, 0.15, 0.3, 0.5)),
    value=lambda p, x: p["k"] * power(x["c"], -p["p"]),
    linear=("k",),
    observable=RATE,
    of_optimum=True,
)

BATCH_BY_COMPUTE = Law(
    name="batch_deepseek",
    formula="B(C) = k C^p",
    source="DeepSeek-AI 2024, arXiv 2401.02954, equation 1: 0.2920, p 0.3271; C without embeddings",
    columns=("c",),
    params=(K, exponent("p", "exponent of compute", 0.1, 0.3, 0.5, 0.8)),
    value=lambda p, x: p["k"] * power(x["c"], p["p"]),
    linear=("k",),
    observable=BATCH,
    of_optimum=True,
)

CRITICAL_BATCH = Law(
    name="critical_batch",
    formula="S(B) = S_min + T_min / B, the steps that reach one loss; B_crit = T_min / S_min",
    source="McCandlish et al. 2018, arXiv 1812.06162, equation 2.11, (S / S_min - 1)(T / T_min - 1) = 1 with T = B S",
    columns=("batch_tokens",),
    params=(Param("S_min", "fewest steps, at an endless batch"), Param("T_min", "fewest tokens, at a small batch")),
    value=lambda p, x: p["S_min"] + p["T_min"] / x["batch_tokens"],
    linear=("S_min", "T_min"),
    observable="steps to the loss",
)

CRITICAL_BATCH_BY_LOSS = Law(
    name="critical_batch_loss",
    formula="B_crit(L) = B* / L^r",
    source="Kaplan et al. 2020, arXiv 2001.08361, equation 1.4 with r = 1 / alpha_B: B* 2e8 tokens, alpha_B 0.21",
    columns=("upstream_loss",),
    params=(Param("B*", "critical batch at a loss of one"), exponent("r", "exponent of loss", 1, 2, 5, 10, high=50.0)),
    value=lambda p, x: p["B*"] * power(x["upstream_loss"], -p["r"]),
    linear=("B*",),
    observable="critical batch (tokens)",
)

# The best value of a hyperparameter, and the constants that it brings into a law of the loss.
BEST = {
    "peak_lr": lambda p, x: p["k_lr"] * power(x["n"], -p["p"]) * power(x["d"], p["q"]),
    "batch_tokens": lambda p, x: p["k_b"] * power(x["d"], p["r"]),
}
TUNED = {
    "peak_lr": (
        Param("h_lr", "loss of a rate off by a factor e, relative", 1e-6, 10.0, starts=(0.01, 0.1)),
        Param("k_lr", "weight of the best learning rate", 1e-30, 1e30, starts=along("peak_lr", 0.3, 0.7)),
        exponent("p", "exponent of size of the best learning rate", 0.0, low=-2.0, high=3.0),
        exponent("q", "exponent of data of the best learning rate", 0.0, low=-2.0, high=2.0),
    ),
    "batch_tokens": (
        Param("h_b", "loss of a batch off by a factor e, relative", 1e-6, 10.0, starts=(0.01,)),
        Param("k_b", "weight of the best batch", 1e-30, 1e30, starts=along("batch_tokens", 0.5)),
        exponent("r", "exponent of data of the best batch", 0.0, low=-2.0, high=2.0),
    ),
}
SCHEDULED = tuple(replace(p, starts=(0.3, 0.5)) if p.name in ("alpha", "beta") else p for p in CHINCHILLA.params)


def _tuned(name: str, *variables: str) -> Law:
    """Chinchilla's law, and by what factor a rate or batch beside the best raises the loss."""

    def value(p, x):
        off = sum(
            p[TUNED[variable][0].name] * log(x[variable] / BEST[variable](p, x)) ** 2
            for variable in variables
            if variable in x
        )
        return CHINCHILLA.value(p, x) * (1 + off)

    parabola = {"peak_lr": "h_lr ln(lr / lr*)^2", "batch_tokens": "h_b ln(B / B*)^2"}
    best = {"peak_lr": "lr* = k_lr D^q / N^p", "batch_tokens": "B* = k_b D^r"}
    return replace(
        CHINCHILLA,
        name=name,
        formula=f"L = (E + A / N^alpha + B / D^beta) (1 + {' + '.join(parabola[variable] for variable in variables)}), "
        + ", ".join(best[variable] for variable in variables),
        source="Hoffmann et al. 2022, equation 2, times a parabola around the optima of Li et al. 2025, arXiv 2503.04715, "
        "equation 1: runs that were not tuned inform instead of misleading",
        columns=("n", "d", *variables),
        params=(*SCHEDULED, *(param for variable in variables for param in TUNED[variable])),
        value=value,
        optional=variables,
    )


DATA_BY_BATCH = replace(
    CHINCHILLA,
    name="chinchilla_batch",
    formula="L(N, D, B) = E + A / N^alpha + B (1 + B / B_crit)^beta / D^beta, B_crit = k_b D^r",
    source="tokens in effect D / (1 + B / B_crit): McCandlish et al. 2018, arXiv 1812.06162, equation 2.12; B_crit by data "
    "as in Bergsma et al. 2025, arXiv 2505.13738; without a batch, the limit of small ones",
    columns=("n", "d", "batch_tokens"),
    params=(
        *SCHEDULED,
        Param("k_b", "weight of the critical batch", 1e-30, 1e30, starts=along("batch_tokens", 0.3, 1.0)),
        exponent("r", "exponent of data of the critical batch", 0.0, low=-2.0, high=2.0),
    ),
    value=lambda p, x: CHINCHILLA.value(
        p, x | {"d": x["d"] / (1 + x["batch_tokens"] / BEST["batch_tokens"](p, x))} if "batch_tokens" in x else x
    ),
    optional=("batch_tokens",),
)

LAWS = (
    LEARNING_RATE,
    BATCH_BY_DATA,
    RATE_BY_COMPUTE,
    BATCH_BY_COMPUTE,
    CRITICAL_BATCH,
    CRITICAL_BATCH_BY_LOSS,
    DATA_BY_BATCH,
    _tuned("chinchilla_lr", "peak_lr"),
    _tuned("chinchilla_lr_batch", "peak_lr", "batch_tokens"),
)
