"""Variables that laws read of a run: one table, from which tables are read, predictions asked and axes labelled."""

from typing import NamedTuple

from laws.base.errors import InputError, nearest


class Variable(NamedTuple):
    """What a law may read of a run.

    Args:
        name: in declarations, ``--columns``, ``--at`` and ``fit.json``.
        symbol: in messages and formulas.
        meaning: what it is, with its unit.
        positive: whether zero and negative values are refused.
        default_column: where it is looked for unless a column is named, if not under its own name.
    """

    name: str
    symbol: str
    meaning: str
    positive: bool = True
    default_column: str = ""

    @property
    def column(self) -> str:
        """The column where it is looked for unless another is named."""
        return self.default_column or self.name


VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        Variable("n", "N", "parameters", default_column="params_total"),
        Variable("d", "D", "training data", default_column="tokens"),
        Variable("c", "C", "training compute (FLOPs)", default_column="flops_exact"),
        Variable("unique_tokens", "U", "unique tokens"),
        Variable("steps", "S", "steps"),
        Variable("batch_tokens", "B", "batch (tokens)"),
        Variable("peak_lr", "lr", "peak learning rate"),
        Variable("width", "w", "width"),
        Variable("depth", "h", "depth"),
        Variable("shape", "x", "shape dimension"),
        Variable("experts", "E", "experts"),
        Variable("granularity", "G", "granularity of the experts"),
        Variable("density", "z", "density (share of non-zero weights)"),
        Variable("bits_weights", "P_w", "bits of a weight"),
        Variable("bits_activations", "P_a", "bits of an activation"),
        Variable("bits_cache", "P_kv", "bits of the key-value cache"),
        Variable("bits_post", "P_post", "bits after training"),
        Variable("params_vocabulary", "N_v", "vocabulary parameters"),
        Variable("replicas", "M", "replicas"),
        Variable("share", "r", "share of the domain among the training data"),
        Variable("share_1", "r_1", "share of the first domain", positive=False),
        Variable("share_2", "r_2", "share of the second domain", positive=False),
        Variable("share_3", "r_3", "share of the third domain", positive=False),
        Variable("teacher_loss", "L_T", "loss of the teacher"),
        Variable("finetune_tokens", "D_F", "fine-tuning tokens"),
        Variable("pretrained", "p", "begun from another run (1, else 0)", positive=False),
        Variable("upstream_loss", "L", "upstream loss"),
        Variable("rate_area", "S_1", "summed learning rate"),
        Variable("annealed_area", "S_2", "annealed area", positive=False),
        Variable("group", "g", "number of the group, from 0", positive=False),
        Variable("schedule_index", "k", "number of the schedule, from 0", positive=False),
    )
}
# Read whenever their columns are there; the others when a law reads them, or when named.
CORE = ("n", "d", "c")


def checked_variable(name: str) -> str:
    """The name of a variable, itself.

    Raises:
        InputError: there is no such variable; the message lists them.
    """
    if name not in VARIABLES:
        raise InputError(
            f"no variable is called '{name}'{nearest(name, VARIABLES)} (variables: {', '.join(VARIABLES)})"
        )
    return name


def column_flag(variable: str) -> str:
    """How the command line names a column: of a variable or the loss, else by the flag of that name.

    Example:
        >>> column_flag("n"), column_flag("width"), column_flag("loss_stderr")
        ('--n_column=COLUMN', '--columns=width=COLUMN', '--loss_stderr=COLUMN')
    """
    if variable in (*CORE, "loss"):
        return f"--{variable}_column=COLUMN"
    return f"--columns={variable}=COLUMN" if variable in VARIABLES else f"--{variable}=COLUMN"


def value_flag(variable: str) -> str:
    """How the command line gives the value of a variable: ``--n VALUE``, or ``--at width=VALUE``."""
    return f"--{variable} VALUE" if variable in CORE else f"--at {variable}=VALUE"
