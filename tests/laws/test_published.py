"""Public tables, loaded as their authors wrote them: one command each."""

import json
import shlex

import numpy as np
import pytest

import laws
from isoflop import cli
from laws.approaches.isoflop_profiles import isoflop_profiles
from laws.approaches.loss_profiles import METHODS
from laws.data.token_cost import fit_token_cost

# Experiment -> its rows, and the exponent of approach 2 (Akima) to two digits, all of the rows in use.
EXPERIMENTS = {
    "epochai_chinchilla__massivetext__chinchilla": (123, 0.50),
    "llama_3__exp_loss": (133, 0.48),
    "marin_202603__comma__llama_2": (85, 0.36),
    "marin_202603__dclm__llama_2": (85, 0.45),
    "marin_202603__nemotron__llama_2": (88, 0.43),
    "misfitting__fineweb_c4": (176, 0.44),
    "ml_scalefit__massivetext__chinchilla": (124, 0.49),
}


@pytest.mark.parametrize(("experiment", "rows", "a"), [(name, *known) for name, known in EXPERIMENTS.items()])
def test_each_experiment_of_the_isoflop_collection(published, experiment, rows, a):
    """All its rows, the curators' outliers among them; budgets are those that the table names."""
    table = laws.load(
        published / "isoflop_collection.csv", n="params", d="tokens", c="budget", where=f"experiment == '{experiment}'"
    )
    assert len(table) == rows
    assert not table.warnings and not table.differing
    for budget in np.unique(table.values["c"]):
        assert table.above_budget(budget).sum() == (table.values["c"] > budget * 1.001).sum()
    assert isoflop_profiles(table, fit_token_cost(table), "akima", draws=500).a == pytest.approx(a, abs=0.02)


@pytest.mark.slow
def test_cubics_agree_with_surfaces_where_other_profiles_do_not(published):
    """Exponents of the seven sweeps by approach 2, against those of the coupled surface fitted to the same runs."""
    distances = {method: [] for method in METHODS}
    for experiment in EXPERIMENTS:
        where = f"experiment == '{experiment}' and not outlier"
        table = laws.load(published / "isoflop_collection.csv", n="params", d="tokens", c="budget", where=where)
        surface = table.fit("coupled", resamples=0).derived.value["a"]
        for method in METHODS:
            distances[method].append(abs(isoflop_profiles(table, method=method, draws=300).a - surface))
    assert max(distances["cubic"]) < 0.03
    mean = {method: np.mean(values) for method, values in distances.items()}
    assert mean["cubic"] < mean["parabola"] < mean["akima"]


COMMANDS = {
    "isoflop_collection.csv --n_column=params --d_column=tokens --c_column=budget "
    "--where=\"experiment == 'llama_3__exp_loss' and not outlier\"": (115, 115),
    "chinchilla_figure4.csv --n_column=params --d_column=tokens --c_column=flops --drop_highest=5": (240, 240),
    "chinchilla_subset.csv --n_column=params --d_column=tokens --c_column=flops": (234, 234),
    "isoflop_refinedweb.csv --n_column=params --d_column=tokens --c_column=flops --where=\"setting == 'tuned'\"": (
        121,
        121,
    ),
    "overtraining_redpajama.csv --n_column=params --d_column=tokens --run_column=name": (35, 35),
    "ladder_c4.csv --n_column=params --d_column=tokens": (16, 16),
    "gemstones_hot.csv --n_column=params --d_column=tokens --run_column=run --delta=1e-4": (22, 220),
    "data_constrained_c4.csv --law=chinchilla_tied --n_column=params --d_column=tokens "
    '--where="tokens == unique_tokens"': (41, 41),
    "routed_experts.csv --law=routed --n_column=params_dense --columns=experts=num_experts --run_column=run": (99, 99),
    "annealing_curves.csv --law=power_offset_d --d_column=step "
    "--where=\"schedule == 'constant_24000' and params_millions == 100\"": (171, 171),
    "extrapolation_benchmark.csv --law=power_offset_d --d_column=examples_seen "
    "--where=\"domain == 'NMT' and model == '6 Enc, 6 Dec' and is_fit == 1\"": (10, 10),
}


@pytest.mark.parametrize(("command", "runs", "rows"), [(command, *counts) for command, counts in COMMANDS.items()])
def test_one_command_fits(published, capsys, tmp_path, command, runs, rows):
    file, *flags = shlex.split(command)
    out = tmp_path / "fit.json"
    argv = ["fit", str(published / file), *flags, "--resamples=0", f"--out={out}", "--json"]
    assert cli.main(argv) == 0, capsys.readouterr().err
    report = json.loads(out.read_text())
    assert (report["n_runs"], report["n_rows"]) == (runs, rows)


def test_learning_curves_of_other_authors(published):
    curves = laws.load_curves(published / "annealing_curves.csv", run=("params_millions", "schedule"), tokens="step")
    assert len(curves) == 18 and "100 / constant_24000" in curves
    assert sum(len(tokens) for tokens, _ in curves.values()) == 4162
    curves = laws.load_curves(
        published / "extrapolation_benchmark.csv",
        run=("domain", "task", "model"),
        tokens="examples_seen",
        where="is_fit == 1",
    )
    assert len(curves) == 92
    assert all(np.all(np.diff(tokens) >= 0) for tokens, _ in curves.values())
