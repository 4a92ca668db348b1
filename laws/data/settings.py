"""Which columns of a table are settings of a run, and in which of them rows of equal N, D and C differ.

Rows that share N, D and C are repeats of one run only if they differ in nothing but its seed and what follows from it. A
learning rate, an optimizer or a kind of loss that differs makes them different runs. No table says which of its columns
are settings, so they are told by these rules, in this order:

1. Columns of ``laws.model.variables`` are settings.
2. Names of bookkeeping (seeds, identities, times, paths, hashes, devices) and of measurements (losses, accuracies,
   seconds, throughput) are none; but what has a measurement's name and is text (a kind of loss), or takes the same few
   values at every point (the weight of a z-loss), was not measured.
3. A column that changes along a run, from one of its rows to the next, is none.
4. Names of what is tuned (``TUNED``: rates, batches, weight decay) are settings.
5. Names of configurations (optimizers, sizes, data) are settings, unless they hold fractions that never repeat: a column
   called precision may be a metric.
6. Of the rest, those with few values are settings (each stands in two rows on average); measurements hardly repeat.

``load(settings=...)`` and ``--settings`` overrule them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from laws.data.grouping import equal_rows
from laws.model.variables import VARIABLES

if TYPE_CHECKING:
    import pandas as pd

# Parts of names, between the boundaries of words.
BOOKKEEPING = (
    "seed|seeds|repeat|repeats|repetition|replicate|rep|trial|rng|random state|data order|"
    "id|uuid|run|runs|trunk|fork|path|dir|directory|file|url|link|host|hostname|node|user|job|slurm|pid|tag|tags|note|"
    "notes|comment|reason|outlier|row|index|created|updated|started|ended|finished|timestamp|date|time|at|git|commit|"
    "revision|hash|sha256|sha|version|versions|schema|device|devices|gpu|gpus|state|status|sweep|group|attempt|continued|"
    "compiles|compiled|pack|packed|damaged|worker|workers|core|cores|thread|threads|launcher|accelerator|accelerators|"
    "curve flag|rollbacks|rolled back|left out"
)
NAMES = ("name", "display_name", "display name")  # of a run; optimizer.name is a setting
MEASURED = (
    "loss|losses|nll|ppl|perplexity|bpb|bits per byte|accuracy|acc|error|score|bleu|rouge|f1|recall|auc|iou|fid|psnr|"
    "wer|cer|top 1|top 5|top k|grad|gradient|sem|std|stderr|best step|noise scale|"
    "seconds|duration|runtime|wall|walltime|"
    "elapsed|hours|per second|throughput|mfu|hfu|memory|utilization|energy|cost|good|spikes"
)
CONFIGURED = (
    "lr|rate|learning rate|batch|weight decay|wd|decay|warmup|beta|beta1|beta2|eps|epsilon|momentum|optimizer|optimiser|"
    "schedule|scheduler|dropout|clip|width|depth|layer|layers|head|heads|d model|embed|hidden|ffn|mlp|vocab|vocabulary|"
    "seq len|context|params|parameters|tokens|examples|epoch|epochs|steps|precision|dtype|bits|init|arch|architecture|model|"
    "family|dataset|corpus|data|mixture|tokenizer|experiment|setting|config|variant|recipe|method|budget|flops|experts|"
    "granularity|sparsity|density|teacher|temperature|augmentation|resolution|patch|activation|norm|attention|cooldown|"
    "horizon|kind|type|metric|split|task|eval set|domain|language|replicas"
)
REPEATED = 2.0  # rows a value, on average, from which a column without a telling name is a setting
REPEATED_FRACTIONS = 1.25  # and from which one with the name of a configuration is, if it holds fractions
DEFAULT_COLUMNS = frozenset(variable.column for variable in VARIABLES.values())


def _names(parts: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|[^a-z0-9])(?:{parts.replace(' ', '[^a-z0-9]*')})(?:$|[^a-z0-9])")


TUNED = _names("lr|learning rate|rate|batch|batch size|weight decay|wd|warmup|momentum|beta1|beta2|dropout")
KINDS = {"bookkeeping": _names(BOOKKEEPING), "measured": _names(MEASURED), "configured": _names(CONFIGURED)}


def kind_of(column: str) -> str:
    """What a column's name says it is: ``configured``, ``bookkeeping``, ``measured`` or ``unknown``."""
    if column in DEFAULT_COLUMNS:
        return "configured"
    if _words(column) in NAMES:
        return "bookkeeping"
    return next((kind for kind, pattern in KINDS.items() if pattern.search(_words(column))), "unknown")


def is_measured(column: str) -> bool:
    """Whether a column's name says that it is a measurement, whatever else it says."""
    return kind_of(column) != "configured" and KINDS["measured"].search(_words(column)) is not None


def _words(column: str) -> str:
    """A name in lower case, with a boundary where its case changes: trainLoss is train_loss."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()


def is_setting(frame: pd.DataFrame, column: str, run: np.ndarray | None, point: Int[np.ndarray, " rows"]) -> bool:
    """Whether a column is a setting, by the rules of this module.

    Args:
        frame: the table.
        column: the name.
        run: identity of the run of each row, None if every row is a run of its own.
        point: number of the group of equal N, D and C of each row.
    """
    kind, values = kind_of(column), frame[column]
    if kind == "bookkeeping" or (kind == "measured" and not (values.dtype.kind == "O" or _is_crossed(values, point))):
        return False
    if run is not None:
        runs = equal_rows(run)
        along = (
            equal_rows(runs, values).max() > runs.max()
            and equal_rows(runs, point, values).max() == equal_rows(runs, point).max()
        )
        if along:
            return False
    if column in DEFAULT_COLUMNS or TUNED.search(_words(column)):
        return True
    levels = values.nunique()
    fractions = values.dtype.kind == "f" and bool(np.any(values.dropna() % 1 != 0))
    if kind == "configured":
        return not fractions or bool(levels * REPEATED_FRACTIONS <= len(values))
    return bool(levels * REPEATED <= len(values))


def _is_crossed(values: Any, point: Int[np.ndarray, " rows"]) -> bool:
    """Whether a column takes the same values at all points that have several rows, as in a grid: no measurement does."""
    several = np.bincount(point)[point] > 1
    point, level = equal_rows(point[several]), equal_rows(values[several])
    points, levels = point.max() + 1, level.max() + 1
    return min(points, levels) > 1 and equal_rows(point, level).max() + 1 == points * levels


def differing_columns(
    frame: pd.DataFrame,
    point: Int[np.ndarray, " rows"],
    run: np.ndarray | None,
    apart_from: Collection[str],
    settings: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The settings in which rows of one point differ.

    Args:
        frame: the table, typed.
        point: number of the group of equal N, D and C of each row.
        run: identity of the run of each row, None if every row is a run of its own.
        apart_from: columns that are not looked at, as those of N, D, C and the loss.
        settings: the columns that are settings; by default the rules of this module tell.
    """
    if point.max() + 1 == len(point):
        return ()
    several = np.bincount(point)[point] > 1
    rows, groups = frame.loc[several], point[several]
    count = len(np.unique(groups))
    candidates = [column for column in (frame.columns if settings is None else settings) if column not in apart_from]
    differing = [column for column in candidates if equal_rows(groups, rows[column]).max() + 1 > count]
    return tuple(c for c in differing if settings is not None or is_setting(frame, c, run, point))
