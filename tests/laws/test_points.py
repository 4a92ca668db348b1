"""Rows that share N, D and C but differ elsewhere: they are no seeds, and the best of each point is fitted."""

import numpy as np
import pandas as pd
import pytest

import laws
from laws.approaches.isoflop_profiles import isoflop_profiles
from laws.base.errors import InputError
from laws.data.grouping import above_budget, at_budget, equal_rows
from laws.data.points import best_settings
from laws.data.settings import kind_of
from laws.data.token_cost import TokenCost
from laws.inference.noise import seed_deviation
from laws.model.forms import find

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
BEST_RATE = {"weight": 1.5, "exponent": 0.37}


def tuned_loss(n, d, rate):
    """Chinchilla's law as published, times a parabola around the best rate."""
    off = np.log(rate / (BEST_RATE["weight"] * n ** -BEST_RATE["exponent"]))
    return (1.7 + 406.4 / n**0.34 + 410.7 / d**0.28) * (1 + 0.02 * off**2)


def grid(rates=RATES, rate_column: str = "peak_lr") -> pd.DataFrame:
    """Three budgets of seven sizes, each trained with every rate."""
    rows = []
    for c in (1e18, 3e18, 1e19):
        for n in np.geomspace(5e7, 8e8, 7):
            tried = rates(n) if callable(rates) else rates
            rows += [
                {"params_total": n, "tokens": c / 6 / n, rate_column: r, "loss": tuned_loss(n, c / 6 / n, r)}
                for r in tried
            ]
    return pd.DataFrame(rows)


def finely(n):
    """Rates around the best one, so that the best of each point is nearly the optimum."""
    return BEST_RATE["weight"] * n ** -BEST_RATE["exponent"] * np.array([0.25, 0.5, 1.0, 2.0])


def test_a_grid_of_rates_is_no_seeds_for_approach_2():
    """Averaged as seeds, the same rows give a = 0.40 and a noise of 0.06 nats where there is none."""
    table = laws.load(grid(finely))
    found = isoflop_profiles(table, TokenCost())
    assert found.a == pytest.approx(0.28 / (0.34 + 0.28), abs=0.017)
    assert found.noise < 5e-3 and found.noise_from == "residuals of the profiles"
    assert all(len(minimum.sizes) == 7 for minimum in found.minima)
    exact = isoflop_profiles(laws.load(grid(lambda n: finely(n)[2:3])), TokenCost())
    assert found.a == pytest.approx(exact.a, abs=1e-6), "as if the other rates had not been tried"
    kept = isoflop_profiles(laws.load(grid(finely), best_of_point=False), TokenCost())
    assert kept.noise_from == "residuals of the profiles", "asked to keep all rows, it still calls none of them seeds"


def test_the_fit_takes_the_best_of_each_point_and_says_so():
    fit = laws.load(grid(finely)).fit("chinchilla", resamples=0)
    assert dict(fit.params) == pytest.approx({"A": 406.4, "B": 410.7, "E": 1.7, "alpha": 0.34, "beta": 0.28}, rel=1e-3)
    (warning,) = (str(text) for text in fit.warnings if "differ in" in str(text))
    assert "rows of equal N, D and C differ in peak_lr" in warning and "63 of 84 rows are left out" in warning
    assert "--law=chinchilla_lr reads peak_lr" in warning


def test_the_grid_of_rates_as_it_was_reported():
    """Four rates that are the same for all sizes: 0.467 with the best of each point; as seeds, 0.403 and 0.058 nats."""
    fit = laws.load(grid()).fit("chinchilla", resamples=0)
    parabola = fit.report.approaches["isoflop_parabola"]
    assert fit.approaches.a["isoflop_parabola"] == pytest.approx(0.467, abs=5e-4)
    assert (parabola.noise_source, len(parabola.minima)) == ("residuals of the profiles", 3)
    assert fit.report.noise.seeds is None, "no two of the runs are repeats"
    assert fit.report.noise.residual < 2e-3
    assert sum("differ in peak_lr" in str(warning) for warning in fit.warnings) == 1


def test_a_law_that_reads_the_column_takes_all_rows():
    table = laws.load(grid())
    assert table.differing == ("peak_lr",)
    assert len(table.for_law(find("chinchilla_lr"))) == len(table) == 84
    assert len(table.for_law(find("chinchilla"))) == 21
    assert not table.for_law(find("chinchilla_lr")).warnings
    named = laws.load(grid(rate_column="lr")).for_law(find("chinchilla"))
    assert "--law=chinchilla_lr with --columns=peak_lr=lr reads lr" in named.warnings[0]


def test_seeds_count_together_and_are_seeds_within_a_setting():
    """Of two rates with three seeds each, the better mean is taken, though the other has the luckiest run."""
    rows = [(1e-3, 0, 3.00), (1e-3, 1, 3.01), (1e-3, 2, 3.02), (2e-3, 0, 2.99), (2e-3, 1, 3.04), (2e-3, 2, 3.06)]
    point = pd.DataFrame(rows, columns=["peak_lr", "seed", "loss"]).assign(params_total=1e8, tokens=2e9)
    more = pd.DataFrame({"peak_lr": 1e-3, "seed": 0, "loss": [2.8, 2.7], "params_total": [2e8, 4e8], "tokens": 2e9})
    table = laws.load(pd.concat([point, more]))
    assert table.differing == ("peak_lr",)
    deviation, dof = seed_deviation(table, np.ones(len(table), bool))
    logs = np.log(point.loss.to_numpy()).reshape(2, 3)
    assert dof == 4
    assert deviation == pytest.approx(np.sqrt(((logs - logs.mean(axis=1, keepdims=True)) ** 2).sum() / 4))
    best = table.for_law(find("chinchilla"))
    assert best.loss.tolist() == [3.00, 3.01, 3.02, 2.8, 2.7]
    assert seed_deviation(best, np.ones(len(best), bool))[1] == 2


def test_rows_that_differ_anywhere_are_two_runs():
    """Copies with rounded losses: four runs, of which three lie on one point."""
    frame = pd.DataFrame(
        {"run_id": list("abcd"), "params_total": [1e8] * 3 + [2e8], "tokens": [2e9] * 4,
         "peak_lr": [1e-3, 2e-3, 4e-3, 1e-3], "loss": [3.127, 3.127, 3.13, 3.0]}
    )  # fmt: skip
    table = laws.load(frame)
    assert len(table) == 4
    assert table.for_law(find("chinchilla")).run.tolist() == ["a", "d"]
    same = frame.assign(peak_lr=1e-3)
    assert len(laws.load(same)) == 4, "different run ids are different runs"
    with pytest.raises(InputError, match="rows 1, 2 are equal in every column"):
        laws.load(same.drop(columns="run_id"))


def test_two_kinds_of_loss_are_no_repeats():
    n = np.repeat(np.geomspace(1e8, 1e9, 6), 2)
    frame = pd.DataFrame({"params_total": n, "tokens": 2e10, "loss_kind": ["train", "eval"] * 6})
    table = laws.load(frame.assign(loss=4 - n / 1e9 + (frame.loss_kind == "eval")), settings=["loss_kind"])
    assert table.differing == ("loss_kind",)
    assert seed_deviation(table, np.ones(12, bool)) == (None, 0)
    assert laws.load(table.frame.assign(kind=frame.loss_kind).drop(columns="loss_kind")).differing == ("kind",)


def test_a_change_of_the_base_config_is_named():
    """Two generations of one sweep: what changed differs at every point."""
    sweep = pd.DataFrame({"params_total": np.repeat([1e7, 2e7, 4e7], 3), "tokens": np.tile([1e9, 2e9, 4e9], 3)})
    sweep["loss"] = 2 + 1e3 / sweep.params_total**0.5 + 1e3 / sweep.tokens**0.4
    both = pd.concat(
        [
            sweep.assign(weight_decay=0.1, base_config="a" * 12),
            sweep.assign(weight_decay=0.3, loss=sweep.loss + 0.1, base_config="b" * 12),
        ]
    )
    table = laws.load(both.assign(run_id=[f"r{i}" for i in range(18)], wall_seconds=np.arange(18.0)))
    assert set(table.differing) == {"weight_decay", "base_config"}
    assert len(table.for_law(find("chinchilla"))) == 9


def test_what_is_measured_or_kept_is_no_setting():
    """Seconds, paths, hashes, times, other losses and the seed differ between seeds."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"params_total": np.repeat([1e7, 2e7, 4e7], 4), "tokens": 1e9, "seed": np.tile(range(4), 3)})
    frame["loss"] = 3 - frame.params_total / 1e8 + 0.01 * rng.standard_normal(12)
    frame["run_id"] = [f"r{i}" for i in range(12)]
    for name in (
        "wall_seconds",
        "tokens_per_second",
        "train_loss",
        "bits_per_byte",
        "ended_at",
        "gradNorm",
        "entropy",
    ):
        frame[name] = rng.uniform(1, 2, 12)
    frame["top5"] = [0.98, 0.98, 1.0, 1.0, 0.98, 1.0, 0.98, 1.0, 1.0, 1.0, 1.0, 1.0]
    frame["best_step"] = [10, 10, 20, 20, 10, 20, 20, 20, 20, 20, 20, 20]
    frame["damaged_checkpoints"] = [0] * 11 + [1]
    frame["output_path"] = [f"/runs/{i}" for i in range(12)]
    frame["git_revision"] = ["a" * 40, "b" * 40] * 6
    frame["config_hash"] = [f"{i:032x}" for i in range(12)]
    frame["device_kind"] = ["H100", "A100"] * 6
    table = laws.load(frame)
    assert table.differing == ()
    assert seed_deviation(table, np.ones(12, bool))[1] == 9
    assert laws.load(frame, settings=["device_kind"]).differing == ("device_kind",)
    with pytest.raises(InputError, match=r"table: no column 'device_knd' of settings; did you mean 'device_kind'\?"):
        laws.load(frame, settings=["device_knd"])


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("peak_lr", "configured"), ("learningRate", "configured"), ("optimizer.name", "configured"),
        ("model.n_layers", "configured"), ("teacher_loss", "configured"), ("base_config", "configured"),
        ("data_seed", "bookkeeping"), ("run_id", "bookkeeping"), ("tokenizer_hash", "bookkeeping"),
        ("eval/loss", "measured"), ("tokens_per_second", "measured"), ("train_accuracy", "measured"),
        ("flavour", "unknown"),
    ],
)  # fmt: skip
def test_names_tell_what_they_can(column, kind):
    assert kind_of(column) == kind


def test_what_changes_along_a_run_is_no_setting():
    """Checkpoints of two schedules: the step and the rate of the moment are no settings, the schedule is."""
    rows = [
        {"run_id": f"{n:.0f}{kind}", "params_total": n, "tokens": 1e9 * k, "step_lr": 1e-3 / k + (kind == "cosine") * 1e-4,
         "schedule": kind, "loss": 3 - 0.1 * k - n / 1e9 - 0.01 * (kind == "cosine")}
        for n in (1e8, 2e8) for kind in ("cosine", "wsd") for k in (1, 2, 3)
    ]  # fmt: skip
    table = laws.load(pd.DataFrame(rows))
    assert table.differing == ("schedule",)
    assert {run[-6:] for run in table.for_law(find("chinchilla")).run} == {"cosine"}


def test_a_law_of_an_optimum_takes_the_best_rate_of_each_point():
    """Fitted to every rate of one grid it finds p = 0, with tight intervals."""
    rates = np.geomspace(3e-5, 1e-2, 40)
    best = laws.load(grid(rates), loss="peak_lr").fit("lr_step", resamples=0, objective="log_squared")
    assert best.params["p"] == pytest.approx(BEST_RATE["exponent"], abs=0.02)
    assert best.params["q"] == pytest.approx(0.0, abs=0.02)
    assert any("only the row with the lowest loss" in str(text) for text in best.warnings)
    alone = grid(rates).rename(columns={"loss": "quality"})
    with pytest.raises(InputError, match=r"law 'lr_step' is of the best 'peak_lr' of each point.*as best_by"):
        laws.load(alone, loss="peak_lr").fit("lr_step", resamples=0)
    named = laws.load(alone, loss="peak_lr", best_by="quality").fit("lr_step", resamples=0, objective="log_squared")
    assert named.params["p"] == best.params["p"]


def test_best_rates_at_the_ends_of_the_grid_are_said():
    table = laws.load(grid((1e-5, 2e-5, 4e-5)), loss="peak_lr").for_law(find("lr_step"))
    assert "in 21 of 21 points the best lies at an end of those tried" in table.warnings[0]


def test_a_frontier_ranks_runs_by_their_loss():
    """Not by the learning rate that is fitted: the smallest rate is no frontier."""
    table = laws.load(grid(np.geomspace(3e-5, 1e-2, 9)), loss="peak_lr", frontier=True)
    runs = grid(np.geomspace(3e-5, 1e-2, 9))
    best = runs.loc[runs.groupby((6 * runs.params_total * runs.tokens).round(-15)).loss.idxmin()]
    assert sorted(table.loss) == sorted(best.peak_lr)
    with pytest.raises(InputError, match=r"frontier keeps the best run.*'peak_lr' does not tell.*as best_by"):
        laws.load(grid().rename(columns={"loss": "quality"}), loss="peak_lr", frontier=True)
    with pytest.raises(InputError, match="'accuracy' does not tell"):
        laws.load(grid().rename(columns={"loss": "accuracy"}), loss="accuracy", frontier=True)


def test_a_budget_is_never_cut_in_two():
    demo = pd.read_parquet("notebooks/data/demo/runs.parquet")
    compute = demo.flops_exact.to_numpy(float)
    for budget in np.unique(demo.budget):
        above = above_budget(compute, budget)
        assert above.sum() == (demo.budget > budget).sum(), budget
        assert at_budget(compute, budget).sum() == (demo.budget == budget).sum()
    assert above_budget(compute, 7e11).sum() == 7 and above_budget(compute, 1e13).sum() == 0


@pytest.mark.parametrize("spread", [1e-15, 0.02, 0.25])
def test_budgets_however_loosely_met(spread):
    rng = np.random.default_rng(0)
    budget = np.repeat([1e18, 1e19, 1e20], 15)
    compute = budget * (1 + spread * rng.uniform(-1, 1, 45))
    compute[20] = 1e19 * (1 + spread / 50)
    assert above_budget(compute, 1e19).tolist() == (budget > 1e19).tolist()
    assert at_budget(compute, 1e20).tolist() == (budget == 1e20).tolist()


def test_where_compute_is_spread_out_a_number_is_a_number():
    compute = np.geomspace(1e18, 1e21, 60)
    assert above_budget(compute, 1e19).tolist() == (compute > 1e19).tolist()
    assert above_budget(np.array([1e19, 2e19]), 1.5e19).tolist() == [False, True]


def test_equal_rows_compare_as_people_do():
    assert equal_rows(np.array([0.1 + 0.2, 0.3, 0.4])).tolist() == [0, 0, 1]
    assert equal_rows(np.array([np.nan, 1.0, np.nan])).tolist() == [0, 1, 0]
    assert equal_rows(np.array(["a", None, "a"], object), np.array([1, 1, 2])).max() == 2
    tied = best_settings(np.zeros(3, int), np.arange(3), np.array([2.0, 1.0, 1.0]))
    assert tied.tolist() == [False, True, False]


def test_a_metric_with_the_name_of_a_setting_is_none():
    """Precision may be that of the numbers or of the predictions; what follows from a column that is read is no matter."""
    n = np.repeat(np.geomspace(1e6, 1e7, 4), 3)
    frame = pd.DataFrame(
        {"params_total": n, "tokens": 1e9, "seed": np.tile(range(3), 4), "loss": 3 - n / 1e8 + np.arange(12) / 1e4}
    )
    assert laws.load(frame.assign(precision=0.7 + np.arange(12) / 77)).differing == ()
    assert laws.load(frame.assign(precision=["bf16", "f32", "f32"] * 4)).differing == ("precision",)
    bits = frame.assign(bits_weights=np.tile([2.0, 4.0, 8.0], 4), format=["fp2", "fp4", "fp8"] * 4)
    table = laws.load(bits)
    assert table.differing[0] == "bits_weights"
    reads = table.for_law(find("precision_weights"))
    assert len(reads) == 12 and not reads.warnings
    assert len(table.for_law(find("chinchilla"))) == 4


def test_a_rate_that_follows_the_size_is_a_setting_though_no_value_repeats():
    frame = grid(finely)
    one_budget = frame[np.isclose(6 * frame.params_total * frame.tokens, 1e18)]
    assert one_budget.peak_lr.nunique() == len(one_budget)
    assert laws.load(one_budget).differing == ("peak_lr",)
    assert laws.load(one_budget.rename(columns={"peak_lr": "optimizer.learning_rate"})).differing


def test_a_table_of_other_variables_alone_is_read():
    frame = pd.DataFrame({"upstream": [2.0, 2.5, 2.5], "loss": [0.3, 0.4, 0.41], "lr": [1e-3, 1e-3, 2e-3]})
    table = laws.load(frame, columns={"upstream_loss": "upstream"})
    assert table.differing == () and len(laws.load(frame)) == 3


def test_how_a_run_was_executed_is_no_setting():
    """Runs of one point that differ in seed, compilations, batch of runs and cores are repeats, and all are fitted."""
    n, d = np.repeat([1e6, 2e6, 4e6, 8e6], 6), np.tile(np.repeat([1e8, 4e8, 1.6e9], 2), 4)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(24))
    frame = pd.DataFrame({"params_total": n, "tokens": d, "loss": (2 + 400 / n**0.34 + 500 / d**0.3) * noise})
    frame = frame.assign(seed=np.tile([0, 1], 12), compiles=np.tile([0, 2], 12), pack=np.tile([1, 8], 12), cores=1)
    fit = laws.load(frame).fit("chinchilla", resamples=0)
    assert fit.n_runs == 24


def _grid(**columns) -> pd.DataFrame:
    """Four rows at each of nine points of N and D, with columns that hold four values each."""
    n, d = (axis.ravel() for axis in np.meshgrid([1e8, 2e8, 4e8], [1e10, 2e10, 4e10], indexing="ij"))
    loss = np.repeat(1.7 + 406.4 / n**0.34 + 410.7 / d**0.28, 4) + np.tile([0, 0.01, 0.02, 0.03], 9)
    values = {name: list(levels) * 9 for name, levels in columns.items()}
    return pd.DataFrame({"n": np.repeat(n, 4), "d": np.repeat(d, 4), "loss": loss, **values})


@pytest.mark.parametrize(
    ("column", "levels"),
    [
        ("z_loss", (0.0, 1e-4, 3e-4, 1e-3)),
        ("aux_loss_weight", (0.0, 0.01, 0.02, 0.1)),
        ("grad_clip", (0.5, 1.0, 2.0, 4.0)),
        ("loss_type", ("c4", "pile", "code", "books")),
    ],
)
def test_what_has_the_name_of_a_measurement_and_is_a_setting(column, levels):
    table = _grid(**{column: levels})
    assert laws.load(table, n="n", d="d").differing == (column,)
    alone = pd.DataFrame({"n": [8e8], "d": [8e10], "loss": [2.0], column: [levels[0]]})
    assert laws.load(pd.concat([table, alone], ignore_index=True), n="n", d="d").differing == (column,)
    measured = np.random.default_rng(0).random(len(table)).round(3)
    assert laws.load(table.assign(**{column: measured}), n="n", d="d").differing == ()


@pytest.mark.parametrize("column", ["replicate", "repeat", "trial", "init_seed", "data_order", "rng", "random_state"])
def test_the_number_of_a_repeat_is_no_setting(column):
    runs = laws.load(_grid(**{column: (0, 1, 2, 3)}), n="n", d="d")
    assert runs.differing == () and len(np.unique(runs.repeats())) == 9


@pytest.mark.parametrize("column", ["budget", "flops_budget", "C (nominal)"])
@pytest.mark.parametrize("kind", [float, int])
def test_a_budget_is_known_by_its_values_whatever_its_column_is_called(column, kind):
    """Runs at 0.75 to 1.25 times their budget leave no gaps between budgets of a factor 1.67."""
    budgets = np.repeat([6.0e19, 1.0e20, 1.8e20, 3.0e20], 9)
    compute = budgets * np.tile(np.linspace(0.75, 1.25, 9), 4)
    n = np.tile(np.geomspace(1e8, 1e10, 9), 4)
    loss = 1.7 + 406.4 / n**0.34 + 410.7 / (compute / 6 / n) ** 0.28
    table = pd.DataFrame({"n": n, "d": compute / 6 / n, "loss": loss, column: budgets.astype(object)})
    table[column] = [kind(value) for value in budgets]
    runs = laws.load(table, n="n", d="d")
    for budget in (6e19, 1e20, 1.8e20):
        assert (runs.above_budget(budget) == (budgets > budget)).all()
    assert (runs.at_budget(1e20, 0.05) == (budgets == 1e20)).all()
    seeds = pd.concat([table.drop(columns=column).assign(loss=table.loss * s, seed=s, c=compute) for s in (1.0, 1.01)])
    close = laws.load(seeds.assign(flops_6nd=1.2 * seeds.c), n="n", d="d", c="c")
    assert close._nominal_budget() is None, "another count of FLOPs is no budget"
