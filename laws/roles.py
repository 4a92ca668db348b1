"""The roles that columns play in laws: one table, from which tables are read, predictions asked and axes labelled."""

from typing import NamedTuple

from laws.errors import BadTable, nearest


class Role(NamedTuple):
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


ROLES: dict[str, Role] = {
    "n": Role("params_total", "N", "parameters"),
    "d": Role("tokens", "D", "training data"),
    "c": Role("flops_exact", "C", "training compute (FLOPs)"),
    "u": Role("unique_tokens", "U", "unique tokens"),
    "s": Role("steps", "S", "steps"),
    "b": Role("batch_tokens", "B", "batch (tokens)"),
    "lr": Role("peak_lr", "lr", "peak learning rate"),
    "w": Role("width", "w", "width"),
    "h": Role("depth", "h", "depth"),
    "x": Role("shape", "x", "shape dimension"),
    "e": Role("experts", "E", "experts"),
    "g": Role("granularity", "G", "granularity of the experts"),
    "z": Role("density", "z", "density (share of non-zero weights)"),
    "pw": Role("bits_weights", "P_w", "bits of a weight"),
    "pa": Role("bits_activations", "P_a", "bits of an activation"),
    "pk": Role("bits_cache", "P_kv", "bits of the key-value cache"),
    "pp": Role("bits_post", "P_post", "bits after training"),
    "v": Role("params_vocabulary", "N_v", "vocabulary parameters"),
    "m": Role("replicas", "M", "replicas"),
    "t": Role("teacher_loss", "L_T", "loss of the teacher"),
    "f": Role("finetune_tokens", "D_F", "fine-tuning tokens"),
    "p": Role("pretrained", "p", "begun from another run (1, else 0)", positive=False),
    "q": Role("upstream_loss", "L", "upstream loss"),
    "s1": Role("rate_area", "S_1", "summed learning rate"),
    "s2": Role("annealed_area", "S_2", "annealed area", positive=False),
    "k": Role("schedule", "k", "number of the schedule, from 0", positive=False),
}
CORE = ("n", "d", "c")  # read whenever their columns are there; the others when a law reads them, or when named


def checked(role: str) -> str:
    """The role itself.

    Raises:
        BadTable: there is no such role; the message lists them.
    """
    if role not in ROLES:
        raise BadTable(f"no role is called '{role}'{nearest(role, ROLES)} (roles: {', '.join(ROLES)})")
    return role


def flag(role: str, value: str, others: str) -> str:
    """How the command line names a role: ``--n COLUMN``, ``--loss COLUMN``, or ``--columns u=COLUMN``."""
    return f"--{role} {value}" if role in CORE or role not in ROLES else f"--{others} {role}={value}"
