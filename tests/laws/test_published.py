"""Public tables, loaded as their authors wrote them: one command each."""

import json

import numpy as np
import pytest

import laws
from isoflop import cli
from laws.approaches.isoflop_profiles import isoflop_profiles
from laws.data.token_cost import fit_token_cost

# The authors' fit of each experiment of the collection, where the table's own description says how many rows are left.
EXPERIMENTS = {
    "epochai_chinchilla__massivetext__chinchilla": 123,
    "llama_3__exp_loss": 133,
    "marin_202603__comma__llama_2": 85,
    "marin_202603__dclm__llama_2": 85,
    "marin_202603__nemotron__llama_2": 88,
    "misfitting__fineweb_c4": 176,
    "ml_scalefit__massivetext__chinchilla": 124,
}
PARAMS, TOKENS = "--n_column=params", "--d_column=tokens"


def fit(capsys, path, *flags) -> dict:
    """What `isoflop fit` prints as JSON, without resamples."""
    out = path.parent / "fit.json"
    assert cli.main(["fit", *map(str, flags), "--resamples=0", f"--out={out}", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("experiment", "rows"), EXPERIMENTS.items())
def test_isoflop_collection(published, experiment, rows):
    """Every experiment by name, with all its rows; budgets are those of the table."""
    table = laws.load(
        published / "isoflop_collection.csv", n="params", d="tokens", c="budget", where=f"experiment == '{experiment}'"
    )
    assert len(table) == rows
    assert not table.warnings and not table.differing
    budgets = np.unique(table.values["c"])
    for budget in budgets:
        assert table.above_budget(budget).sum() == (table.values["c"] > budget * 1.001).sum()
    kept = laws.load(
        published / "isoflop_collection.csv", n="params", d="tokens", c="budget",
        where=f"experiment == '{experiment}' and not outlier",
    )  # fmt: skip
    assert 0.3 < isoflop_profiles(kept, fit_token_cost(kept), draws=200).a < 0.7
