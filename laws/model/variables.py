"""The roles that columns play in laws: one table, from which tables are read, predictions asked and axes labelled."""

from typing import NamedTuple

from laws.base.errors import InputError, nearest


class Variable(NamedTuple):
    """What a law may read of a run.

    Args:
        column: where it is looked for unless a column is named.
        symbol: in messages and formulas.
        meaning: what it is, with its unit.
        positive: whether zero and negative values are refused.
    """

    column: str
    symbol: str
    meaning: str
    positive: bool = True


VARIABLES: dict[str, Variable] = {
    "n": Variable("params_total", "N", "parameters"),
    "d": Variable("tokens", "D", "training data"),
    "c": Variable("flops_exact", "C", "training compute (FLOPs)"),
    "u": Variable("unique_tokens", "U", "unique tokens"),
    "s": Variable("steps", "S", "steps"),
    "b": Variable("batch_tokens", "B", "batch (tokens)"),
    "lr": Variable("peak_lr", "lr", "peak learning rate"),
    "w": Variable("width", "w", "width"),
    "h": Variable("depth", "h", "depth"),
    "x": Variable("shape", "x", "shape dimension"),
    "e": Variable("experts", "E", "experts"),
    "g": Variable("granularity", "G", "granularity of the experts"),
    "z": Variable("density", "z", "density (share of non-zero weights)"),
    "pw": Variable("bits_weights", "P_w", "bits of a weight"),
    "pa": Variable("bits_activations", "P_a", "bits of an activation"),
    "pk": Variable("bits_cache", "P_kv", "bits of the key-value cache"),
    "pp": Variable("bits_post", "P_post", "bits after training"),
    "v": Variable("params_vocabulary", "N_v", "vocabulary parameters"),
    "m": Variable("replicas", "M", "replicas"),
    "t": Variable("teacher_loss", "L_T", "loss of the teacher"),
    "f": Variable("finetune_tokens", "D_F", "fine-tuning tokens"),
    "p": Variable("pretrained", "p", "begun from another run (1, else 0)", positive=False),
    "q": Variable("upstream_loss", "L", "upstream loss"),
    "s1": Variable("rate_area", "S_1", "summed learning rate"),
    "s2": Variable("annealed_area", "S_2", "annealed area", positive=False),
    "k": Variable("schedule", "k", "number of the schedule, from 0", positive=False),
}
CORE = ("n", "d", "c")  # read whenever their columns are there; the others when a law reads them, or when named


def checked_variable(variable: str) -> str:
    """The role itself.

    Raises:
        InputError: there is no such role; the message lists them.
    """
    if variable not in VARIABLES:
        raise InputError(
            f"no role is called '{variable}'{nearest(variable, VARIABLES)} (roles: {', '.join(VARIABLES)})"
        )
    return variable


def flag(variable: str, value: str, others: str) -> str:
    """How the command line names a role: ``--n COLUMN``, ``--loss COLUMN``, or ``--columns u=COLUMN``."""
    return (
        f"--{variable} {value}" if variable in CORE or variable not in VARIABLES else f"--{others} {variable}={value}"
    )
