"""Images through the engine: records, sharding, accumulation with batch norm, choosing apart from reporting."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from training import (
    checkpoint,
    classification,
    data as batches,
    evaluation,
    loop,
    mesh as meshes,
    step as steps,
    step_spec,
)
from training.config import complete, resolve
from training.errors import BadInput
from training.lines import read_metrics
from training.task import resolve as family_of


def config(**changes):
    partial = ConfigDict(
        {
            "task": "vision",
            "batch_size": 32,
            "duration": {"steps": 6},
            "model": {"name": "resnet", "stages": (1, 1), "width": 4},
            "data": {"dataset": "digits"},
            "log": {"every": 1},
        }
    )
    full = complete(partial)
    full.update_from_flattened_dict(changes)
    return full


AUGMENTED = {
    "data.augment.crop": 1,
    "data.augment.mixup": 0.2,
    "model.label_smoothing": 0.1,
    "model.stochastic_depth": 0.1,
}


def test_a_run_leaves_a_record_of_images(tmp_path):
    found = loop.run(config(**AUGMENTED), tmp_path)
    assert found["status"] == "completed" and found["family"] == "resnet" and found["dataset"] == "digits"
    assert (found["examples"], found["eval_examples"], found["num_classes"]) == (192, 359, 10)
    assert found["flops_exact"] == found["flops_per_example_exact"] * 192
    for name in (
        "loss_sem",
        "accuracy",
        "error",
        "top5",
        "precision",
        "recall",
        "f1",
        "calibration_error",
        "data_hash",
    ):
        assert found[name] is not None, name
    assert np.log(10) * 0.9 < found["train_loss"] < 3  # a head of zeros starts at log(classes)
    assert found["epochs"] == pytest.approx(192 / 1438)
    assert set(classification.METRICS) <= {name for name, value in found.items() if isinstance(value, float)}


def test_devices_leave_the_losses_and_the_statistics(tmp_path):
    """Batch norm, augmentation and dropout by stochastic depth see the global batch, however many devices hold it."""
    one = loop.run(config(**AUGMENTED, **{"mesh.data": 1}), tmp_path / "one")
    eight = loop.run(config(**AUGMENTED, **{"mesh.data": 4, "mesh.fsdp": 2}), tmp_path / "eight")
    assert eight["num_devices"] == 8
    assert eight["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
    assert eight["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.slow
def test_replicas_share_their_statistics_when_they_synchronise(tmp_path):
    """Each sees its own rows in between; on any mesh."""
    apart = {"replicas.count": 4, "replicas.every": 4, "mesh.data": 1, "model.stages": (1,)}
    one = loop.run(config(**apart), tmp_path / "one")
    mesh = loop.run(config(**apart | {"mesh.data": 2, "mesh.replica": 4}), tmp_path / "mesh")
    assert mesh["num_devices"] == 8
    assert mesh["loss"] == pytest.approx(one["loss"], rel=1e-4)
    stats = [jax.tree.map(np.asarray, checkpoint.load_part(tmp_path / name, "stats")) for name in ("one", "mesh")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *stats)
    of_replicas = checkpoint.load_part(tmp_path / "one", "replicas")["stats"]
    for x, copies in zip(jax.tree.leaves(stats[0]), jax.tree.leaves(of_replicas), strict=True):
        np.testing.assert_array_equal(copies, np.stack([x] * 4))


def test_accumulation_averages_the_statistics_of_micro_batches():
    run = resolve(config(**{"mesh.data": 1}))
    task, mesh = family_of("vision").build(run), meshes.build(run.mesh)
    shapes, hyper = batches.shapes(task, 32), step_spec.hyper(run, task)
    after = {}
    for parts in (1, 4):
        spec = step_spec.of(task.model, run)._replace(gradient_accumulation_steps=parts)
        program = steps.programs(spec, mesh, 1, shapes, tuple(hyper))
        state = program.init(np.int32(0), hyper)
        batch = batches.batches(task, shapes, mesh, 0, 1)
        state, _ = program.train(state, batch, np.zeros(1, np.float32), np.int32(0), hyper)
        after[parts] = jax.tree.map(np.asarray, state.stats)["batch_stats"]
    # The stem sees the images themselves, so that its mean is that of the whole batch, and its variance what is within.
    whole, parted = (after[parts]["stem"]["norm"] for parts in (1, 4))
    np.testing.assert_allclose(parted["mean"], whole["mean"], rtol=1e-5)
    np.testing.assert_allclose(parted["var"], whole["var"], rtol=0.05)
    assert not np.allclose(whole["mean"], 0)


def test_what_chooses_is_not_what_is_reported(tmp_path):
    changes = {"data.validation": 0.2, "log.evaluate_every": 2, "model.name": "mlp", "model.stages": None}
    changes |= {"early_stopping.patience": 5, "early_stopping.metric": "accuracy"}
    found = loop.run(config(**changes), tmp_path)
    lines = [line for line in read_metrics(tmp_path) if "eval/loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {line["eval/set"] for line in lines} == {"dataset digits (validation)"}
    assert found["eval_set"] == "dataset digits (test)"
    best = max(lines, key=lambda line: line["eval/accuracy"])
    assert found["best_step"] == best["step"]


def test_evaluation_is_whole_whatever_the_batch(tmp_path):
    loop.run(config(**{"model.name": "mlp", "model.stages": None}), tmp_path)
    found = []
    for size, devices in ((1, 1), (7, 1), (512, 8)):
        run = resolve(
            config(**{"model.name": "mlp", "model.stages": None, "evaluation.batch_size": size, "mesh.data": devices})
        )
        mesh = meshes.build(run.mesh)
        params = checkpoint.load_params(tmp_path, mesh=mesh)
        found.append(evaluation.evaluate(family_of("vision").build(run), params, {}, mesh))
        assert found[-1].pop("eval_set") == "dataset digits (test)"
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.name": "vit", "model.stages": None, "model.width": None, "model.size": 1e4, "model.depth": 2},
        {"model.variant": "20", "model.stages": None, "model.width": None},
    ],
)
def test_resolution_is_idempotent(changes):
    once = resolve(config(**changes))
    assert resolve(once).to_dict() == once.to_dict() and once.model.width == resolve(config(**changes)).model.width
    read = ConfigDict(json.loads(once.to_json_best_effort()))  # as a run keeps it
    assert resolve(read).derived.run_id == once.derived.run_id
    del read.data.augment["resized_crop"]
    assert resolve(read).derived.run_id == once.derived.run_id


CHOOSES = {"early_stopping.patience": 2, "log.evaluate_every": 2}
REFUSED = [
    ({"evaluation.split": "validation", "data.validation": 0.1}, "chooses by the validation images, so they"),
    ({"evaluation.split": "validation", "data.folds": 3, "data.fold": 1}, "chooses by the validation images of fold 1"),
]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *((changes | CHOOSES, f"early_stopping.patience: {message}") for changes, message in REFUSED),
        ({"evaluation.batch_size": 0}, "evaluation.batch_size: must be at least 1, got 0"),
        ({"model.init_scale": -1.0}, "model.init_scale: must not be negative, got -1"),
        ({"model.momentum": 1.0}, r"model.momentum: must be in \[0, 1\), got 1"),
        (
            {"early_stopping.metric": "acuracy"},
            "early_stopping.metric: the evaluation gives no 'acuracy' .it gives loss, .*accuracy",
        ),
        ({"data.augment.crop": 8}, "data.augment.crop: 8 pixels can miss an image of 8 x 8"),
        ({"optimizer.lr_multipliers": (("stem", 0.0),)}, "optimizer.lr_multipliers: no parameter matches 'stem'"),
        ({"optimizer.lr_multipliers": (("stem/.*", (0.0, 1.0)),)}, "optimizer.lr_multipliers: 2 factors for stem/"),
    ],
)
def test_what_a_run_would_be_refused_for_is_refused_in_its_plan(changes, message):
    with pytest.raises(BadInput, match=message):
        resolve(config(**changes))


@pytest.mark.parametrize("pattern", ["head/.*", "batch_stats/stem/.*"])
def test_patterns_match_what_is_there(pattern, tmp_path):
    parent = loop.run(config(**{"duration.steps": 1}), tmp_path / "parent")
    start = {"init_from.run": str(tmp_path / "parent"), "init_from.reinit": (pattern,)}
    factors = {"optimizer.lr_multipliers": (("stem/kernel", 0.0),)}
    assert resolve(config(**start, **factors)).derived.parent == f"{parent['run_id']}:1"
    with pytest.raises(BadInput, match="init_from.reinit: no parameter matches 'haed'"):
        resolve(config(**start | {"init_from.reinit": (pattern, "haed")}))


def test_what_is_chosen_by_the_fold_is_reported_on_the_test_images(tmp_path):
    found = loop.run(config(**CHOOSES, **{"data.folds": 3, "model.name": "mlp", "model.stages": None}), tmp_path)
    assert found["best_step"] and found["eval_set"] == "dataset digits (test)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"log.evaluate_every": 2}, "data.validation: 0, so there is no validation split"),
        ({"evaluation.split": "validation"}, "data.validation: 0, so there is no validation split"),
        ({"evaluation.split": "train"}, "evaluation.split: 'train' is not one of test, validation"),
        ({"model.label_smoothing": 1.0}, r"model.label_smoothing: must be in \[0, 1\)"),
        ({"data.augment.rotate": 200.0}, r"data.augment.rotate: must be in \[0, 180"),
        ({"data.dataset": "digit"}, "data.dataset: no dataset 'digit'.*digits"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        loop.run(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
