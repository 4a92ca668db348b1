"""Loss by size and data: the laws that trade parameters against tokens."""

from laws.base.array_math import power
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param


def _chinchilla_value(p, x):
    return p["E"] + p["A"] * power(x["n"], -p["alpha"]) + p["B"] * power(x["d"], -p["beta"])


def _chinchilla_optimal_n(p, compute):
    total = p["alpha"] + p["beta"]
    ratio = p["alpha"] * p["A"] / (p["beta"] * p["B"])
    return power(ratio, 1 / total) * power(compute / 6, p["beta"] / total)


def _tied(p):
    return {**p, "beta": p["alpha"]}


def _coupled_value(p, x):
    inner = p["A"] * power(x["n"], -p["alpha"]) + p["B"] * power(x["d"], -p["beta"])
    return p["E"] + power(inner, p["kappa"])


def _kaplan_value(p, x):
    size = power(p["Nc"] / x["n"], p["alpha_N"] / p["alpha_D"])
    return power(size + p["Dc"] / x["d"], p["alpha_D"])


def _kaplan_optimal_n(p, compute):
    # d/dN of (Nc/N)^r + 6 N Dc / C with r = alpha_N / alpha_D vanishes at N^(r+1) = r Nc^r C / (6 Dc).
    r = p["alpha_N"] / p["alpha_D"]
    return power(r * power(p["Nc"], r) * compute / (6 * p["Dc"]), 1 / (r + 1))


def _overtraining_value(p, x):
    ratio, compute = x["d"] / x["n"], 6 * x["n"] * x["d"]
    return p["E"] + (p["a"] * power(ratio, p["eta"]) + p["b"] * power(ratio, -p["eta"])) * power(compute, -p["eta"])


WEIGHTS = (
    Param("A", "weight of the size term"),
    Param("B", "weight of the data term"),
    Param("E", "irreducible loss"),
)
SCALE_STARTS = (1e6, 1e9, 1e12, 1e15)

CHINCHILLA = Law(
    name="chinchilla",
    formula="L(N, D) = E + A / N^alpha + B / D^beta",
    source="Hoffmann et al. 2022, arXiv 2203.15556, equation 2",
    columns=("n", "d"),
    params=(*WEIGHTS, exponent("alpha", "exponent of size"), exponent("beta", "exponent of data")),
    value=_chinchilla_value,
    linear=("A", "B", "E"),
    optimal_n=_chinchilla_optimal_n,
    exponents=lambda p: (p["beta"] / (p["alpha"] + p["beta"]), p["alpha"] / (p["alpha"] + p["beta"])),
)

CHINCHILLA_TIED = Law(
    name="chinchilla_tied",
    formula="L(N, D) = E + A / N^alpha + B / D^alpha",
    source="Hoffmann et al. 2022, equation 2 with one exponent, as Muennighoff et al. 2023, arXiv 2305.16264, fit it",
    columns=("n", "d"),
    params=(*WEIGHTS, exponent("alpha", "exponent of size and data")),
    value=lambda p, x: _chinchilla_value(_tied(p), x),
    linear=("A", "B", "E"),
    optimal_n=lambda p, compute: _chinchilla_optimal_n(_tied(p), compute),
    exponents=lambda p: (0.5 + 0 * p["alpha"], 0.5 + 0 * p["alpha"]),
)

COUPLED = Law(
    name="coupled",
    formula="L(N, D) = E + (A / N^alpha + B / D^beta)^kappa",
    source="arXiv 2608.07222; Busbridge et al. 2025, arXiv 2502.08606, the supervised law; kappa = 1 is separable",
    columns=("n", "d"),
    params=(
        Param("A", "weight of size", 1e-9, 1e6, starts=(1e2, 1e4), unit=lambda p, x: power(x["n"], -p["alpha"])),
        Param("B", "weight of data", 1e-9, 1e6, starts=(1e2, 1e4), unit=lambda p, x: power(x["d"], -p["beta"])),
        Param("E", "irreducible loss"),
        exponent("alpha", "exponent of size", 0.3, 0.6, high=50.0),
        exponent("beta", "exponent of data", 0.3, 0.6, high=50.0),
        exponent("kappa", "common exponent", 0.4, 0.8, 1.0, low=0.02),
    ),
    value=_coupled_value,
    linear=("E",),
    # The split that minimises the inner sum is that of the separable law, whatever kappa.
    optimal_n=_chinchilla_optimal_n,
    exponents=lambda p: (p["beta"] / (p["alpha"] + p["beta"]), p["alpha"] / (p["alpha"] + p["beta"])),
)

KAPLAN = Law(
    name="kaplan",
    formula="L(N, D) = ((Nc / N)^(alpha_N / alpha_D) + Dc / D)^alpha_D",
    source="Kaplan et al. 2020, arXiv 2001.08361, equation 1.5; N without embeddings",
    columns=("n", "d"),
    params=(
        Param("Nc", "scale of size", 1.0, 1e30, starts=SCALE_STARTS),
        Param("Dc", "scale of data", 1.0, 1e30, starts=SCALE_STARTS),
        exponent("alpha_N", "exponent of size", 0.03, 0.08, 0.2, 0.5),
        exponent("alpha_D", "exponent of data", 0.03, 0.08, 0.2, 0.5),
    ),
    value=_kaplan_value,
    optimal_n=_kaplan_optimal_n,
    exponents=lambda p: (
        p["alpha_D"] / (p["alpha_N"] + p["alpha_D"]),
        p["alpha_N"] / (p["alpha_N"] + p["alpha_D"]),
    ),
)

KAPLAN_STEPS = Law(
    name="kaplan_steps",
    formula="L(N, S) = (Nc / N)^alpha_N + (Sc / S)^alpha_S",
    source="Kaplan et al. 2020, arXiv 2001.08361, equation 1.6; S is S_min, the steps at a large batch",
    columns=("n", "steps"),
    params=(
        Param("A", "weight of size, Nc^alpha_N"),
        Param("B", "weight of steps, Sc^alpha_S"),
        exponent("alpha_N", "exponent of size"),
        exponent("alpha_S", "exponent of steps"),
    ),
    value=lambda p, x: p["A"] * power(x["n"], -p["alpha_N"]) + p["B"] * power(x["steps"], -p["alpha_S"]),
    linear=("A", "B"),
)

OVERTRAINING = Law(
    name="overtraining",
    formula="L(N, D) = E + (a M^eta + b / M^eta) / C^eta, M = D / N, C = 6 N D",
    source="Gadre et al. 2024, arXiv 2403.08540, equation 4: chinchilla_tied with alpha = 2 eta, A = a / 6^eta",
    columns=("n", "d"),
    params=(
        Param("E", "irreducible loss"),
        Param("a", "weight of tokens per parameter"),
        Param("b", "weight of parameters per token"),
        exponent("eta", "exponent of compute", 0.05, 0.1, 0.15, 0.2, 0.3, high=2.0),
    ),
    value=_overtraining_value,
    linear=("E", "a", "b"),
    # M* = (b / a)^(1 / (2 eta)) whatever the compute, and C = 6 M N^2.
    optimal_n=lambda p, compute: power(compute / 6, 0.5) * power(p["a"] / p["b"], 0.25 / p["eta"]),
    exponents=lambda p: (0.5 + 0 * p["eta"], 0.5 + 0 * p["eta"]),
)

LAWS = (CHINCHILLA, CHINCHILLA_TIED, COUPLED, KAPLAN, KAPLAN_STEPS, OVERTRAINING)
