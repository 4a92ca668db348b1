"""Usual names of the columns of N, D, C and the loss, by which a table is read whose columns nobody named.

A column is taken for a variable by its name alone, and only where the table lacks the variable's default column. Two
columns that could both be meant are refused, unless they hold equal numbers: the choice between parameters with and
without embeddings, or between two losses, moves the fitted exponents.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from laws.base.errors import InputError
from laws.data.reading import as_numbers
from laws.model.variables import CORE, VARIABLES, column_flag

if TYPE_CHECKING:
    import pandas as pd

# Names in lower case, words joined by underscores. Units belong in the values: "params_m" is no name of parameters.
PARAMETERS = (
    "n|params|param|parameters|param_count|params_count|parameter_count|n_params|n_parameters|num_params|num_parameters|"
    "number_of_parameters|total_params|total_parameters|params_total|model_params|model_parameters|model_size|"
    "non_embedding|non_embedding_params|non_embedding_parameters|params_non_embedding|n_non_embedding|non_emb_params|"
    "active_params|active_parameters"
)
TOKENS = (
    "d|tokens|token_count|n_tokens|num_tokens|number_of_tokens|total_tokens|train_tokens|training_tokens|tokens_seen|"
    "tokens_trained|dataset_size|data_size|dataset_tokens|training_data|examples_seen|samples_seen|images_seen"
)
FLOPS = (
    "c|flop|flops|compute|total_flops|flops_total|train_flops|training_flops|compute_flops|train_compute|"
    "training_compute|total_compute"
)
# A nominal budget stands beside the compute that a run spent: it is C only where N or D has no column.
BUDGETS = "budget|compute_budget|flop_budget|flops_budget|budget_flops"
LOSSES = (
    "loss|final_loss|val_loss|valid_loss|validation_loss|final_val_loss|final_validation_loss|eval_loss|final_eval_loss|"
    "evaluation_loss|test_loss|final_test_loss|heldout_loss|held_out_loss|loss_val|loss_eval|cross_entropy|l"
)
# The loss of the training batches, where no other is stated.
TRAINING_LOSSES = "train_loss|training_loss|final_train_loss|final_training_loss"


def guessed_columns(frame: pd.DataFrame, name: str, settled: Collection[str], named: Collection[str]) -> dict[str, str]:
    """The columns that usual names give to N, D, C and the loss: variable -> column.

    Args:
        frame: the table.
        name: of the table, in messages.
        settled: variables that have a column already.
        named: those of them whose column was asked for by name.

    Raises:
        InputError: two columns could be meant; the message names both, and the flag that settles it.
    """
    by_name: dict[str, list[str]] = {}
    for column in frame.columns:
        by_name.setdefault(_words(column), []).append(column)

    def match(variable: str, *groups: str) -> dict[str, str]:
        if variable in settled:
            return {}
        for names in groups:
            usual = names.split("|")
            columns = [column for words, written in by_name.items() if words in usual for column in written]
            if columns:
                return {variable: _only(frame, name, variable, columns)}
        return {}

    columns = match("n", PARAMETERS) | match("d", TOKENS) | match("loss", LOSSES, TRAINING_LOSSES)
    if {"n", "d"} <= set(named):
        return columns  # C is then as documented: its default column, or 6 N D
    both = {"n", "d"} <= {*settled, *columns}
    return columns | match("c", FLOPS, *(() if both else (BUDGETS,)))


def guesses(columns: Mapping[str, str]) -> str:
    """One line that says which columns were guessed, and the flags that overrule it.

    Args:
        columns: variable -> column.

    Example:
        >>> guesses({"n": "parameters", "loss": "final_loss"})
        'columns guessed from their names: N = parameters, loss = final_loss (--n_column, --loss_column name others)'
    """
    symbols = {variable: VARIABLES[variable].symbol for variable in CORE} | {"loss": "loss"}
    pairs = ", ".join(f"{symbols[variable]} = {column}" for variable, column in columns.items())
    flags = ", ".join(column_flag(variable).partition("=")[0] for variable in columns)
    return f"columns guessed from their names: {pairs} ({flags} name{'s another' if len(columns) == 1 else ' others'})"


def _words(column: str) -> str:
    """A name in lower case with one underscore between words: "Val Loss", "valLoss" and "val/loss" are val_loss."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _only(frame: pd.DataFrame, name: str, variable: str, columns: list[str]) -> str:
    """The column that is meant: the only one, or the first of several that hold equal numbers."""
    first, *others = columns
    for other in others:
        if not np.array_equal(as_numbers(frame[first]), as_numbers(frame[other]), equal_nan=True):
            raise InputError(
                f"{name}: columns '{first}' and '{other}' could both be {variable}: say which",
                flag=column_flag(variable).replace("COLUMN", f"{first} or {other}"),
            )
    return first
