"""Runs that start from another run: what is taken, what is drawn anew, what learns more slowly or not at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from training import checkpoint, loop, transfer
from training.config import resolve
from training.errors import BadInput

STILL = {"optimizer.learning_rate": 1e-12, "optimizer.weight_decay": 0.0}


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    path = tmp_path_factory.mktemp("parent") / "run"
    return path, loop.run(toy.config(**{"checkpoint.every_steps": 12, "checkpoint.keep_every": 12}), path)


def params(path, **which):
    return jax.tree.map(np.asarray, checkpoint.load_params(path, **which))


def test_a_child_starts_where_its_parent_ended_but_for_what_is_drawn_anew(tmp_path, parent):
    path, record = parent
    start = {"init_from.run": str(path), "seed": 5}
    whole = loop.run(toy.config(**start, **STILL), tmp_path / "whole")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params(tmp_path / "whole"), params(path))
    assert whole["loss"] == pytest.approx(record["loss"], rel=1e-4)
    assert whole["parent"] == f"{record['run_id']}:24" and record["parent"] is None

    headless = loop.run(toy.config(**start, **STILL, **{"init_from.reinit": ("head", "la.*")}), tmp_path / "headless")
    scratch = loop.run(toy.config(seed=5, **STILL), tmp_path / "scratch")
    taken, drawn = params(tmp_path / "headless"), params(tmp_path / "scratch")
    for name in taken:
        expected = drawn[name] if name in ("head", "last") else params(path)[name]
        np.testing.assert_allclose(taken[name], expected, atol=1e-6, err_msg=name)
    assert len({whole["run_id"], headless["run_id"], scratch["run_id"]}) == 3


def test_a_parent_is_read_into_the_shardings_of_its_child(tmp_path, parent, monkeypatch):
    load, asked = checkpoint._orbax().load_checkpointables, []
    spied = lambda path, wanted: asked.append(wanted) or load(path, wanted)
    monkeypatch.setattr(checkpoint._orbax(), "load_checkpointables", spied)
    loop.run(toy.config(**{"init_from.run": str(parent[0]), "mesh.fsdp": 4}, **STILL), tmp_path)
    (read,) = {wanted["params"]["kernel"].sharding for wanted in asked if "params" in wanted}
    assert read.shard_shape((4, 8)) == (1, 8)
    np.testing.assert_allclose(params(tmp_path)["kernel"], params(parent[0])["kernel"], atol=1e-6)


def test_an_earlier_step_and_another_place_of_the_parent(tmp_path, parent):
    path, record = parent
    early = resolve(toy.config(**{"init_from.run": str(path), "init_from.step": 12}))
    assert early.derived.parent == f"{record['run_id']}:12"
    (tmp_path / "moved").symlink_to(path)
    one, other = (resolve(toy.config(**{"init_from.run": str(p)})) for p in (path, tmp_path / "moved"))
    assert one.derived.run_id == other.derived.run_id != early.derived.run_id  # no paths in an identity
    loop.run(toy.config(**{"init_from.run": str(path), "init_from.step": 12}, **STILL), tmp_path / "run")
    np.testing.assert_allclose(params(tmp_path / "run")["head"], params(path, step=12)["head"], atol=1e-6)


def test_a_sweep_directory_names_the_run_in_it_that_has_the_model(tmp_path):
    sweep = tmp_path / "parents"
    records = {}
    for width in (13, 14):
        records[width] = loop.run(toy.config(**{"model.width": width}), sweep / "runs" / f"of{width}")
    start = {"init_from.run": str(sweep), "model.width": 14}
    with pytest.raises(BadInput, match="parents is no run directory"):
        resolve(toy.config(**start))
    (sweep / "sweep.json").write_text("{}")
    child = resolve(toy.config(**start))
    assert child.derived.parent == f"{records[14]['run_id']}:24"
    direct = resolve(toy.config(**start | {"init_from.run": str(sweep / "runs" / "of14")}))
    assert child.to_dict() == direct.to_dict() == resolve(child).to_dict()
    with pytest.raises(BadInput, match="init_from.run: the sweep .*parents has no completed run of this model"):
        resolve(toy.config(**start | {"model.width": 15}))
    with pytest.raises(BadInput, match="no completed run of this model"):
        resolve(toy.config(**start, **{"model.noise": 0.2}))
    loop.run(toy.config(**{"model.width": 14, "seed": 1}), sweep / "runs" / "again")
    with pytest.raises(BadInput, match="has 2 completed runs of this model: name one of them"):
        resolve(toy.config(**start))


def test_the_record_says_what_was_seen_before_and_what_learns(tmp_path, parent):
    path, record = parent
    assert (record["pretrained"], record["parent_tokens"], record["params_trained"]) == (0, 0.0, record["params_total"])
    rules = (("head", 0.0),)
    start = {"init_from.run": str(path), "init_from.step": 12, "optimizer.lr_multipliers": rules}
    child = loop.run(toy.config(**start), tmp_path / "child")
    assert (child["pretrained"], child["parent_tokens"]) == (1, record["tokens"] / 2)
    assert child["params_trained"] == child["params_total"] - 8  # of the width
    grandchild = resolve(toy.config(**{"init_from.run": str(tmp_path / "child")}))
    assert grandchild.derived.parent_tokens == record["tokens"] / 2 + child["tokens"]


def test_of_a_stack_the_layers_that_learn_are_counted():
    tree = {"blocks": {"up": jnp.zeros((3, 4, 5))}, "head": jnp.zeros((5, 2))}
    assert transfer.trained(tree, ()) == 70
    assert transfer.trained(tree, (("blocks/.*", (0.0, 0.5, 1.0)), ("head", 0.0))) == 40


def test_factors_freeze_and_slow_down(tmp_path):
    plain = {"optimizer.name": "sgd", "optimizer.clip": 0.0, "duration.steps": 1, "schedule.warmup_steps": 0}
    plain |= {"optimizer.learning_rate": 0.1, "optimizer.weight_decay": 0.1, "schedule.name": "constant"}
    loop.run(toy.config(**plain), tmp_path / "plain")
    rules = (("kernel", 0.0), ("head", 0.5))
    loop.run(toy.config(**plain, **{"optimizer.lr_multipliers": rules}), tmp_path / "ruled")
    loop.run(toy.config(**plain | STILL), tmp_path / "still")
    first, ruled, whole = (params(tmp_path / name) for name in ("still", "ruled", "plain"))
    np.testing.assert_allclose(ruled["kernel"], first["kernel"], atol=1e-8)
    np.testing.assert_allclose(ruled["head"] - first["head"], 0.5 * (whole["head"] - first["head"]), atol=1e-6)
    np.testing.assert_allclose(ruled["bias"], whole["bias"], atol=1e-7)
    assert np.abs(whole["kernel"] - first["kernel"]).max() > 1e-4


def test_a_stack_has_a_factor_a_layer_and_the_first_rule_counts():
    tree = {"blocks": {"up": jnp.zeros((3, 4, 5))}, "head": jnp.zeros((5, 2))}
    found = transfer.lr_multipliers(tree, (("blocks/.*", (0.25, 0.5, 1.0)), (".*", 2.0)))
    assert found["blocks"]["up"].ravel().tolist() == [0.25, 0.5, 1.0] and found["head"].item() == 2
    assert (tree["blocks"]["up"] + found["blocks"]["up"]).shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from.run": "nowhere"}, "init_from.run: nowhere is no run directory"),
        ({"init_from.reinit": ("head",)}, "init_from.reinit: says how to begin with another run; give init_from.run"),
        ({"init_from.run": "PARENT", "init_from.step": 7}, "has no checkpoint of step 7"),
        ({"init_from.run": "PARENT", "init_from.reinit": ("(",)}, r"init_from.reinit: '\(' is no regular expression"),
        (
            {"init_from.run": "PARENT", "init_from.reinit": ("head", "tail")},
            "init_from.reinit: no parameter matches 'tail'",
        ),
        (
            {"init_from.run": "PARENT", "model.width": 4},
            r"does not fit: bias is \[8\] there and \[4\] here; head.*reinit",
        ),
        ({"optimizer.lr_multipliers": (("nothing", 0.0),)}, "lr_multipliers: no parameter matches 'nothing'"),
        (
            {"optimizer.lr_multipliers": ("head", 0.0)},
            "lr_multipliers: want pairs of a pattern and a factor, got 'head'",
        ),
        (
            {"optimizer.lr_multipliers": (("head", -1.0),)},
            "lr_multipliers: 'head' wants a factor of at least 0, got -1",
        ),
        ({"optimizer.lr_multipliers": (("head", (1.0, 2.0)),)}, "lr_multipliers: 2 factors for head, which has"),
    ],
)
def test_contradictions_are_refused_and_leave_nothing(tmp_path, parent, changes, message):
    changes = {key: str(parent[0]) if value == "PARENT" else value for key, value in changes.items()}
    with pytest.raises(BadInput, match=message):
        loop.run(toy.config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
