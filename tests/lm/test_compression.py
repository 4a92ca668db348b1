"""Smaller language models: few bits, few weights, and students of a teacher, from a config to what is evaluated."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from ml_collections import ConfigDict
from tiers import tiered

from isoflop import cli
from lm.loss import divergence
from training import checkpoint, config as configs, loop
from training.errors import BadInput
from training.lines import read_metrics
from training.signals import Interrupted


def config(**changes):
    partial = ConfigDict(
        {
            "task": "lm",
            "model": {"width": 16, "depth": 1, "heads": 2},
            "data": {"corpus": "markov", "seq_len": 16, "corpus_args": {"symbols": 8}},
            "batch_size": 16,
            "duration": {"steps": 40},
            "optimizer": {"learning_rate": 0.01},
            "evaluation": {"tokens": 2048},
            "mesh": {"data": 1},
        }
    )
    full = configs.complete(partial)
    full.update_from_flattened_dict(changes)
    return full


@pytest.mark.parametrize("scan", tiered([False, True], [True]))
def test_few_bits_of_weights_and_activations(tmp_path, capsys, scan):
    dense = loop.run(config(**{"model.scan": scan}), tmp_path / "dense")
    eight = {"quantize.weights": "int8", "quantize.activations": "int8", "model.scan": scan}
    close = loop.run(config(**eight), tmp_path / "eight")
    far = loop.run(config(**{**eight, "quantize.activations": "int2"}), tmp_path / "two")
    assert close["loss"] == pytest.approx(dense["loss"], rel=0.02) and close["loss"] != dense["loss"]
    assert far["loss"] > close["loss"] + 0.003
    assert (far["bits_weights"], far["bits_activations"]) == (8, 2)
    assert cli.main(["evaluate", str(tmp_path / "two"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(far["loss"], rel=1e-5)


def test_a_run_from_before_there_were_such_sections_is_evaluated(tmp_path, capsys):
    result = loop.run(config(), tmp_path)
    file = tmp_path / "config.json"
    old = {
        key: value for key, value in json.loads(file.read_text()).items() if key not in ("prune", "quantize", "teacher")
    }
    file.write_text(json.dumps(old))
    assert cli.main(["evaluate", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(result["loss"], rel=1e-5)
    file.write_text(json.dumps(old | {"gone": 1}))
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "config.json: unknown key 'gone'" in capsys.readouterr().err


def test_sparse_models_keep_their_embedding(tmp_path):
    result = loop.run(config(**{"prune.sparsity": 0.75, "prune.every": 1}), tmp_path)
    dense = result["params_total"]
    assert result["density"] == pytest.approx(0.25, abs=0.01)
    assert result["params_nonzero"] == pytest.approx(dense - 0.75 * 12 * 16**2, rel=0.01)


def test_activations_that_nothing_rounds_are_refused(tmp_path):
    for name, message in (("moe", "what goes into experts is not rounded"), ("lstm", "has no linear maps in blocks")):
        changes = {"model.name": name, "quantize.activations": "int8"} | (
            {"model.heads": None} if name == "lstm" else {}
        )
        with pytest.raises(BadInput, match=f"quantize.activations: .*{message}"):
            loop.run(config(**changes), tmp_path / name)


def teacher(path, **changes):
    return loop.run(config(**{"model.width": 32, "duration.steps": 80, **changes}), path)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return str(folder), teacher(folder)


def test_divergence_is_that_of_two_distributions():
    rng = np.random.default_rng(0)
    states, theirs = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 6))
    head, their_head = rng.normal(size=(7, 4)), rng.normal(size=(7, 6))
    for temperature in (1.0, 2.5):
        p, q = (scipy.special.softmax(x / temperature, axis=-1) for x in (theirs @ their_head.T, states @ head.T))
        wanted = temperature**2 * scipy.special.rel_entr(p, q).sum(axis=-1)
        arrays = (jnp.asarray(x, jnp.float32) for x in (states, head, theirs, their_head))
        np.testing.assert_allclose(divergence(*arrays, temperature), wanted, rtol=1e-4)


def test_a_student_learns_what_its_teacher_says(taught, tmp_path):
    folder, theirs = taught
    scratch = loop.run(config(), tmp_path / "scratch")
    student = loop.run(config(**{"teacher.run": folder}), tmp_path / "student")
    assert student["teacher"] == f"{theirs['run_id']}:80" and student["run_id"] != scratch["run_id"]
    assert student["teacher_loss"] == theirs["loss"] and student["teacher_params"] == theirs["params_total"]
    assert theirs["loss"] < student["loss"] < scratch["loss"] + 0.03
    lines = read_metrics(tmp_path / "student")
    assert lines[-1]["distill_kl"] < 0.5 * lines[0]["distill_kl"]
    extra = student["flops_exact"] - scratch["flops_exact"]
    assert extra == pytest.approx(theirs["flops_forward"] / theirs["examples"] * student["examples"])
    assert "teacher" not in checkpoint_names(tmp_path / "student")


def checkpoint_names(run):
    (folder,) = (run / "checkpoints").iterdir()
    return {name.split("/")[0] for name in checkpoint._metadata(folder)["rest"]}


def test_a_teacher_is_read_into_the_shardings_of_its_student(taught, tmp_path, monkeypatch):
    load, asked = checkpoint._orbax().load_checkpointables, []
    spied = lambda path, wanted: asked.append(wanted) or load(path, wanted)
    monkeypatch.setattr(checkpoint._orbax(), "load_checkpointables", spied)
    loop.run(config(**{"teacher.run": taught[0], "duration.steps": 1, "mesh.fsdp": 4}), tmp_path)
    kernels = [leaf for wanted in asked for leaf in jax.tree.leaves(wanted) if leaf.ndim > 2]
    assert kernels and not any(leaf.sharding.is_fully_replicated for leaf in kernels)


APART = {"replicas.count": 2, "replicas.every": 2}


@pytest.mark.parametrize("apart", tiered([{}, APART], [APART]))
def test_a_model_that_is_its_own_teacher_has_nothing_to_learn(taught, tmp_path, apart):
    folder, _ = taught
    own = {"model.width": 32, "teacher.run": folder, "init_from.run": folder, "duration.steps": 2, "log.every": 1}
    loop.run(config(**own, **apart), tmp_path)
    assert "teacher" not in checkpoint_names(tmp_path)
    assert read_metrics(tmp_path)[0]["distill_kl"] == pytest.approx(0, abs=1e-5)


def test_a_taught_run_is_the_same_on_any_mesh_and_in_parts(taught, tmp_path):
    changes = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "gradient_accumulation_steps": 2}
    base = {"teacher.run": taught[0], "teacher.weight": 0.5, "teacher.temperature": 2.0, "duration.steps": 10}
    one = loop.run(config(**base), tmp_path / "one")
    other = loop.run(config(**base, **changes), tmp_path / "other")
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_taught_run_that_was_cut_goes_on(taught, tmp_path):
    base = {"teacher.run": taught[0], "duration.steps": 20, "checkpoint.every_steps": 8}
    whole = loop.run(config(**base), tmp_path / "whole")

    def stop(step, metrics):
        if step >= 10:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        loop.run(config(**base, **{"log.every": 1}), tmp_path / "cut", [stop])
    again = loop.run(config(**base, **{"log.every": 1}), tmp_path / "cut")
    assert again["continued_from"] == 8 and again["loss"] == whole["loss"]


def test_a_recurrent_student_of_a_decoder(taught, tmp_path):
    changes = {"model.name": "lstm", "model.heads": None, "teacher.run": taught[0], "duration.steps": 5}
    assert loop.run(config(**changes), tmp_path)["status"] == "completed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher.run": "nowhere"}, "teacher.run: nowhere is no run directory"),
        ({"teacher.step": 3}, "teacher.run: .* has no checkpoint of step 3"),
        ({"teacher.weight": 0.0}, r"teacher.weight: must be in \(0, 1\]"),
        ({"teacher.temperature": 0.0}, "teacher.temperature: must be positive"),
        ({"data.corpus_args.symbols": 9}, "teacher.run: .* has a vocabulary of 8 symbols, and this run of 9"),
        ({"model.name": "encoder"}, "teacher.run: encoder learns from no teacher"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused(taught, changes, message):
    with pytest.raises(BadInput, match=message):
        configs.resolve(config(**{"teacher.run": taught[0], **changes}))
