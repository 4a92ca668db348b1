"""What pre-training is worth, in tokens of the task that follows."""

from laws.base.array_math import power
from laws.model.forms.allocation import CHINCHILLA
from laws.model.forms.start_values import exponent
from laws.model.law import Law, Param

TRANSFER = Law(
    name="transfer",
    formula="D_T(D_F, N) = k D_F^a N^b",
    source="Hernandez et al. 2021, arXiv 2102.01293, equation 1.1: k 1.9e4, a 0.18, b 0.38 for text to Python; D_T is "
    "what a run from scratch would need for the same loss, less D_F",
    columns=("finetune_tokens", "n"),
    params=(
        Param("k", "weight"),
        exponent("a", "exponent of fine-tuning tokens", 0.1, 0.2, 0.4, low=-1.0, high=2.0),
        exponent("b", "exponent of size", 0.2, 0.4, 0.6, low=-1.0, high=2.0),
    ),
    value=lambda p, x: p["k"] * power(x["finetune_tokens"], p["a"]) * power(x["n"], p["b"]),
    linear=("k",),
    observable="tokens transferred",
)

TRANSFER_LOSS = Law(
    name="transfer_loss",
    formula="L(N, D_F) = ((Nc / N)^(alpha_N / alpha_D) + K / (D_F^a N^b))^alpha_D, K = Dc / k",
    source="Hernandez et al. 2021, arXiv 2102.01293, equation 6.1: Kaplan's law at the data in effect; Dc and k of "
    "equation 1.1 enter as one number",
    columns=("n", "finetune_tokens"),
    params=(
        Param("Nc", "size at which the size term is one", 1.0, 1e60, starts=(1e10, 1e14)),
        Param(
            "K", "data at which the data term is one, over the weight of the transfer", 1e-12, 1e60, starts=(1e4, 1e9)
        ),
        exponent("alpha_N", "exponent of size", 0.08, 0.2),
        exponent("alpha_D", "exponent of data", 0.1, 0.3),
        exponent("a", "exponent of fine-tuning tokens", 0.1, 0.4, low=-1.0, high=2.0),
        exponent("b", "exponent of size in the data in effect", 0.2, 0.5, low=-1.0, high=2.0),
    ),
    value=lambda p, x: power(
        power(p["Nc"] / x["n"], p["alpha_N"] / p["alpha_D"])
        + p["K"] * power(x["finetune_tokens"], -p["a"]) * power(x["n"], -p["b"]),
        p["alpha_D"],
    ),
)


def _transferred(p, x):
    """Data in effect: a run that begins with another's parameters has as much more as these are worth."""
    return x["d"] + x["pretrained"] * TRANSFER.value(p, {"finetune_tokens": x["d"], "n": x["n"]})


TRANSFER_JOINT = Law(
    name="transfer_joint",
    formula="L(N, D) = E + A / N^alpha + B / (D + p D_T)^beta, D_T = k D^a N^b, p = 1 where pre-trained, else 0",
    source="ours: Hoffmann et al. 2022 at the data in effect of Hernandez et al. 2021, arXiv 2102.01293, equation 1.1; "
    "one fit to runs from scratch and from a parent, so that the intervals of k, a and b hold what is not known of both",
    columns=("n", "d", "pretrained"),
    params=(
        Param("E", "irreducible loss"),
        Param("A", "weight of the size term"),
        Param("B", "weight of the data term"),
        exponent("alpha", "exponent of size", 0.2, 0.4, 0.7),
        exponent("beta", "exponent of data", 0.2, 0.4, 0.7),
        Param("k", "weight of the transfer", 1e-12, 1e15, starts=(1e1, 1e3, 1e5)),
        exponent("a", "exponent of fine-tuning tokens", 0.1, 0.5, low=-2.0, high=3.0),
        exponent("b", "exponent of size in the transfer", 0.1, 0.5, low=-2.0, high=3.0),
    ),
    value=lambda p, x: CHINCHILLA.value(p, {"n": x["n"], "d": _transferred(p, x)}),
    linear=("E", "A", "B"),
)

LAWS = (TRANSFER, TRANSFER_LOSS, TRANSFER_JOINT)
