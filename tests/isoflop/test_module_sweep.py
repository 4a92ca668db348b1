"""`isoflop.sweep`: Flax modules that the project does not contain, planned, trained and fitted in one call."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import isoflop
import laws
from isoflop.module_family import HELD_OUT_FROM, Batches, ModuleModel
from isoflop.module_sweep import ModuleSweep
from training.errors import BadInput

FEATURES = 3


class Net(nn.Module):
    width: int
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.tanh(nn.Dense(self.width)(x))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(1)(x)[..., 0]


def batches(step, batch_size):
    rng = np.random.default_rng(step)
    x = rng.normal(size=(batch_size, FEATURES)).astype(np.float32)
    return {"x": x, "y": np.sin(x.sum(axis=1))}


def loss(module, batch):
    return jnp.square(module(batch["x"]) - batch["y"])


def planned(folder, **changes):
    arguments = {"widths": (4, 8), "batches": batches, "loss": loss, "budgets": (3e4, 6e4), "batch_size": 8}
    return isoflop.sweep(Net, **arguments | {"min_steps": 5, "workdir": folder} | changes)


def test_a_sweep_of_a_module_counts_trains_records_and_goes_on(tmp_path):
    sweep = planned(tmp_path)
    assert [*sweep.plan["width"]] == [4, 8, 4, 8] and not len(sweep.refused)
    for _, row in sweep.plan.iterrows():
        width = row["width"]
        assert row["params"] == FEATURES * width + width + width + 1
        # Forward: 2 products; backward: the gradient of both weights, and that of the hidden layer, but not of the data.
        per_example = 2 * (2 * FEATURES * width) + 3 * (2 * width)
        assert row["flops"] == row["steps"] * 8 * per_example == pytest.approx(row["budget"], rel=0.1)
    table = sweep.run().table
    assert [*table["status"]] == ["completed"] * 4 and {*table["run_id"]} == {*sweep.plan.index}
    assert table["loss"].between(0, 2).all() and (table["eval_tokens"] == 64).all()
    ended = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    again = planned(tmp_path, budgets=(3e4,)).run()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")} == ended
    assert len(again.table) == 2
    assert laws.load(sweep.table).columns["c"] == "flops_exact" and len(laws.load(sweep.table)) == 4


def test_the_law_is_that_of_the_records(tmp_path, monkeypatch):
    n, d = np.repeat([1e3, 1e4, 1e5], 3), np.tile([1e5, 1e6, 1e7], 3)
    records = pd.DataFrame({"params_total": n, "tokens": d, "loss": 0.5 + 40 / n**0.4 + 90 / d**0.3})
    monkeypatch.setattr(ModuleSweep, "table", property(lambda sweep: records))
    params = planned(tmp_path).fit(resamples=0).params
    assert params[["E", "alpha", "beta"]].to_numpy() == pytest.approx([0.5, 0.4, 0.3], rel=1e-3)


def test_another_loss_is_another_run_and_keys_of_the_engine_are_taken(tmp_path):
    def halved(module, batch):
        return jnp.square(module(batch["x"]) - batch["y"]) / 2

    first, second = planned(tmp_path), planned(tmp_path, loss=halved)
    assert not {*first.plan.index} & {*second.plan.index}
    rates = planned(tmp_path, learning_rate=lambda width: 0.1 / width, config={"optimizer.name": "muon"}).plan
    assert [*rates["learning_rate"]] == [0.1 / width for width in rates["width"]]
    assert not {*first.plan.index} & {*rates.index}


def test_a_loss_of_the_batch_and_losses_of_its_examples_are_the_same_sums():
    source = Batches(batches, 8, None, 1)
    mean = lambda module, batch: loss(module, batch).mean()
    each, one = (ModuleModel(Net(4), fn, source.treedef, source.shapes, False) for fn in (loss, mean))
    variables = nn.meta.unbox(each.init(jax.random.key(0), {}))
    arguments = (variables["params"], {}, source.training(0))
    assert one.loss(*arguments, jax.random.key(0), {})[0] == pytest.approx(
        float(each.loss(*arguments, jax.random.key(0), {})[0]), rel=1e-6
    )
    assert np.allclose(one.score(*arguments), each.score(*arguments), rtol=1e-6)


def test_dropout_draws_in_training_alone_and_running_means_change_there_alone():
    class Normed(Net):
        @nn.compact
        def __call__(self, x, train=False):
            return Net(self.width, 0.5)(nn.BatchNorm(use_running_average=not train)(x), train)

    source = Batches(batches, 8, None, 1)
    with_mode = lambda module, batch, train=False: jnp.square(module(batch["x"], train) - batch["y"])
    model = ModuleModel(Normed(4), with_mode, source.treedef, source.shapes, True)
    variables = nn.meta.unbox(model.init(jax.random.key(0), {}))
    params, stats, batch = variables.pop("params"), variables, source.training(0)
    totals = [model.loss(params, stats, batch, jax.random.key(i), {}) for i in (1, 1, 2)]
    assert float(totals[0][0]) == float(totals[1][0]) != float(totals[2][0])
    changed = totals[0][1][1]
    assert not np.allclose(changed["batch_stats"]["BatchNorm_0"]["mean"], stats["batch_stats"]["BatchNorm_0"]["mean"])
    assert np.array_equal(model.score(params, stats, batch), model.score(params, stats, batch))


def test_an_iterable_is_numbered_its_first_batches_are_held_out_and_it_may_be_read_again():
    def endless():
        return (batches(i, 4) for i in range(20))

    source = Batches(endless, None, None, 3)
    names = lambda batch: batch["leaf_000"][0, 0]
    assert source.batch_size == 4
    for k in (0, 1, 5, 2):  # as in a run that is continued
        assert names(source.training(k)) == batches(k + 3, 4)["x"][0, 0]
    assert names(source.held_out(2)) == batches(2, 4)["x"][0, 0]
    with pytest.raises(BadInput, match="batches: the iterable ends before batch 20"):
        source.training(17)
    function = Batches(batches, 4, None, 3)
    assert names(function.held_out(0)) == batches(HELD_OUT_FROM, 4)["x"][0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": lambda step: None}, "batches: takes"),
        ({"batches": lambda step, size: {"x": np.zeros((3, 2)), "y": np.zeros(size)}}, "the first axis of every array"),
        ({"loss": lambda module, batch: module(batch["x"])[:3]}, r"loss: returns the shape \(3,\) for 8 examples"),
        ({"min_steps": 10_000}, "fewer than min_steps"),
        ({"config": {"optimizer.nam": "adam"}}, "unknown key 'optimizer.nam'; did you mean 'name'"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        planned(tmp_path / "none", **changes)
    assert not (tmp_path / "none").exists()


def test_a_factory_that_makes_no_module_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is no flax.linen.Module but a int"):
        isoflop.sweep(lambda width: width, widths=(4,), batches=batches, loss=loss, budgets=(1e4,), workdir=tmp_path)
