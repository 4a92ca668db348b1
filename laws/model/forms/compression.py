"""Smaller networks: fewer bits, fewer weights, a teacher, and the vocabulary's share."""

from dataclasses import replace

from laws.base.array_math import exp, log, maximum, power, softplus
from laws.model.forms.allocation import COUPLED
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param

PARTS = {"bits_weights": "w", "bits_activations": "a", "bits_cache": "kv"}  # bits of -> suffix of its constant
KUMAR = "Kumar et al. 2024, arXiv 2411.04330"
TERMS = (Param("A", "weight of the size term"), Param("B", "weight of the data term"), Param("E", "irreducible loss"))
ALPHA, BETA = (
    exponent("alpha", "exponent of size", 0.2, 0.35, 0.5),
    exponent("beta", "exponent of data", 0.2, 0.35, 0.5),
)


def _effective(p, x, variables):
    """Parameters in effect: each part that is trained in few bits takes a share away."""
    size = x["n"]
    for variable in variables:
        size = size * (1 - exp(-x[variable] / p[f"gamma_{PARTS[variable]}"]))
    return size


def _precision(name: str, equation: str, variables: tuple[str, ...], starts: tuple[float, ...]) -> Law:
    shares = " ".join(f"(1 - e^(-P_{PARTS[variable]} / gamma_{PARTS[variable]}))" for variable in variables)
    return Law(
        name=name,
        formula=f"L = E + A / N_eff^alpha + B / D^beta, N_eff = N {shares}",
        source=f"{KUMAR}, equation {equation}, without its fitted offsets of the bits; unquantised is 16 bits",
        columns=("n", "d", *variables),
        params=(
            *TERMS,
            ALPHA,
            BETA,
            *(
                Param(f"gamma_{PARTS[variable]}", "bits that a part needs", 0.05, 50.0, starts=starts)
                for variable in variables
            ),
        ),
        value=lambda p, x: (
            p["E"] + p["A"] * power(_effective(p, x, variables), -p["alpha"]) + p["B"] * power(x["d"], -p["beta"])
        ),
        linear=("A", "B", "E"),
    )


def _harm(p, x):
    """What quantising to fewer bits after training adds to the loss: the more, the longer the training."""
    return p["C"] * power(x["d"], p["gamma_D"]) * power(x["n"], -p["gamma_N"]) * exp(-x["bits_post"] / p["gamma_post"])


POST = Law(
    name="precision_post",
    formula="delta(N, D, P) = C D^gamma_D / N^gamma_N e^(-P / gamma_post), the loss after quantising less that before",
    source=f"{KUMAR}, equation 2",
    columns=("n", "d", "bits_post"),
    params=(
        Param("C", "weight"),
        exponent("gamma_D", "exponent of data", 0.3, 0.6, high=3.0),
        exponent("gamma_N", "exponent of size", 0.3, 0.6, high=3.0),
        Param("gamma_post", "bits that halve it, nearly", 0.05, 20.0, starts=(0.3, 0.6, 1.5)),
    ),
    value=_harm,
    linear=("C",),
    observable="loss added by quantising (nats)",
)

SENSITIVE = tuple(
    Param(f"C_{part}", "scale of the robustness of a part trained in few bits", 1e-2, 20.0, starts=(0.3, 1.0))
    for part in PARTS.values()
)


def _unified_value(p, x):
    size = _effective(p, x, tuple(PARTS))
    harm = _harm(p, x | {"n": size})
    for variable, part in PARTS.items():
        harm = harm * (1 - exp(-p[f"C_{part}"] * maximum(x[variable] - x["bits_post"], 0.0)))
    return p["E"] + p["A"] * power(size, -p["alpha"]) + p["B"] * power(x["d"], -p["beta"]) + harm


PRECISION = _precision("precision", "4", tuple(PARTS), (1.0, 2.5))
UNIFIED = replace(
    PRECISION,
    name="precision_unified",
    formula="L = E + A / N_eff^alpha + B / D^beta + C D^gamma_D / N_eff^gamma_N e^(-P_post / gamma_post) "
    "prod (1 - e^(-C_x (P_x - P_post))), N_eff as in precision",
    source=f"{KUMAR}, equations 9 and 11: weights already trained in few bits lose less when quantised after training",
    columns=(*PRECISION.columns, "bits_post"),
    params=(
        *(
            replace(p, starts=p.starts if callable(p.starts) else p.starts[:1])
            for p in (*PRECISION.params, *POST.params)
        ),
        *SENSITIVE,
    ),
    value=_unified_value,
    linear=(*PRECISION.linear, *POST.linear),
)

SPARSITY = Law(
    name="sparsity",
    formula="L(N, D, z) = E + (a z^p + c) / N^alpha + b / D^beta, z the share of weights that are not zero",
    source="Frantar et al. 2023, arXiv 2309.08520, equation 1 with z = 1 - S and b = a_D^beta; N counts non-zero weights",
    columns=("n", "d", "density"),
    params=(
        Param("E", "irreducible loss"),
        Param("a", "weight of density"),
        Param("c", "weight of the size term"),
        Param("b", "weight of the data term"),
        exponent("p", "exponent of density", 0.4, 0.8, 1.2),
        exponent("alpha", "exponent of size", 0.15, 0.25, 0.4),
        exponent("beta", "exponent of data", 0.2, 0.5, 0.9),
    ),
    value=lambda p, x: (
        p["E"]
        + (p["a"] * power(x["density"], p["p"]) + p["c"]) * power(x["n"], -p["alpha"])
        + p["b"] * power(x["d"], -p["beta"])
    ),
    linear=("E", "a", "c", "b"),
)

VOCABULARY = Law(
    name="vocabulary",
    formula="L(N, V, D) = E + A / N^alpha + A_v / N_v^alpha_v + B / D^alpha",
    source="Tao et al. 2024, arXiv 2407.13623, with + E, for a positive loss (bits per byte); theirs is normalised by "
    "unigrams, and negative. N without the vocabulary's N_v = V width",
    columns=("n", "params_vocabulary", "d"),
    params=(
        Param("E", "irreducible loss"),
        Param("A", "weight of the size term"),
        Param("A_v", "weight of the vocabulary term"),
        Param("B", "weight of the data term"),
        exponent("alpha", "exponent of size and data", 0.2, 0.35, 0.5, 0.7),
        exponent("alpha_v", "exponent of the vocabulary", 0.3, 0.65, 1.0),
    ),
    value=lambda p, x: (
        p["E"]
        + p["A"] * power(x["n"], -p["alpha"])
        + p["A_v"] * power(x["params_vocabulary"], -p["alpha_v"])
        + p["B"] * power(x["d"], -p["alpha"])
    ),
    linear=("E", "A", "A_v", "B"),
)

# The supervised law of the student, held by the distillation law: its constants carry an S.
SUPERVISED = {name: f"{name}_S" for name in COUPLED.names}


def _distillation_value(p, x):
    alone = COUPLED.value({name: p[held] for name, held in SUPERVISED.items()}, x)
    bend = softplus((log(x["teacher_loss"]) - log(alone) - log(p["d1"])) / p["f1"])
    capacity = power(
        p["A"] * power(x["n"], -p["alpha"]) + p["B"] * power(x["d"], -p["beta"]),
        p["gamma"],
    )
    return x["teacher_loss"] + power(x["teacher_loss"], -p["c0"]) * exp(-p["c1"] * p["f1"] * bend) * capacity


DISTILLATION = Law(
    name="distillation",
    formula="L_S = L_T + L_T^-c0 (1 + (L_T / (d1 L~_S))^(1/f1))^(-c1 f1) (A / N^alpha + B / D^beta)^gamma, "
    "L~_S by coupled",
    source="Busbridge et al. 2025, arXiv 2502.08606, equation 8; hold the six supervised constants (..._S) at stage 1",
    columns=("n", "d", "teacher_loss"),
    params=(
        Param("A", "weight of the student's size", 1e-3, 1e12, starts=(1e3,)),
        Param("B", "weight of distilled tokens", 1e-3, 1e12, starts=(1e4,)),
        exponent("alpha", "exponent of size", 0.3, 0.6),
        exponent("beta", "exponent of distilled tokens", 0.3, 0.6),
        exponent("gamma", "common exponent", 0.5, 0.8, low=0.02),
        exponent("c0", "exponent of the teacher's loss", 1.0, 2.5, low=0.0, high=10.0),
        Param("c1", "strength of the break", 0.1, 1e5, starts=(1.0, 30.0, 500.0)),
        Param("d1", "loss of the teacher at the break, of the student's", 0.1, 10.0, starts=(0.8, 1.3)),
        Param("f1", "softness of the break", 1e-2, 5.0, starts=(0.1, 0.5)),
        *(
            Param(SUPERVISED[p.name], f"{p.meaning}, supervised", 1e-3, 1e12, starts=(start,))
            for p, start in zip(COUPLED.params, (3e3, 2e4, 1.2, 0.4, 0.4, 0.45), strict=True)
        ),
    ),
    value=_distillation_value,
)

LAWS = (
    _precision("precision_weights", "3", ("bits_weights",), (1.0, 2.5, 5.0)),
    PRECISION,
    POST,
    UNIFIED,
    SPARSITY,
    VOCABULARY,
    DISTILLATION,
)
