"""Language modelling through the engine: evaluation equal on any batch size and mesh; runs from text to record."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict

from isoflop import cli
from lm import objectives, task as family
from training import config as configs, evaluation, loop, mesh as meshes
from training.errors import BadInput
from training.lines import read_metrics


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of forty small documents, and a cache."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = ["law", "loss", "curve", "token", "scale", "the", "of", "née", "a", "budget"]
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(" ".join(rng.choice(words, 80 + 20 * (i % 5))))
    return folder


def config(text, **changes):
    partial = ConfigDict(
        {
            "task": "lm",
            "model": {"width": 16, "depth": 2, "heads": 2},
            "data": {"corpus": "files", "corpus_args": {"paths": f"{text}/*.txt"}, "seq_len": 32, "eval_fraction": 0.3},
            "batch_size": 8,
            "duration": {"steps": 12},
            "log": {"every": 1},
            "evaluation": {"batch_size": 8, "tokens": 165 * 32},
        }
    )
    partial.data.cache_dir = str(text / "cache")
    full = configs.complete(partial)
    full.update_from_flattened_dict(changes)
    return full


@functools.lru_cache
def drawn(model):
    init = jax.jit(lambda key: nn.meta.unbox(model.init(key, {"init_scale": 1.0}))["params"])
    return jax.tree.map(np.asarray, init(jax.random.key(0)))


def evaluated(full, devices):
    task = family.build(configs.resolve(full))
    grid = meshes.build({"data": devices, "fsdp": 1, "tensor": 1})
    return evaluation.evaluate(task, drawn(task.model), {}, grid), task


@pytest.mark.parametrize(
    ("tokenizer", "layouts"),
    [
        pytest.param("bytes", [(64, 1), (1, 1), (7, 1), (64, 8), (8, 8)], marks=pytest.mark.slow),
        ("bpe:280", [(64, 1), (7, 1), (8, 8)]),
    ],
)
def test_evaluation_does_not_depend_on_batches_or_devices(text, tokenizer, layouts):
    results = {}
    for size, devices in layouts:
        results[size, devices], task = evaluated(
            config(text, **{"evaluation.batch_size": size, "data.tokenizer": tokenizer}), devices
        )
    reference = results[64, 1]
    assert reference["eval_tokens"] == len(task.sample) * 32 and len(task.sample) % 7
    for key, result in results.items():
        np.testing.assert_allclose(result["loss"], reference["loss"], rtol=1e-6, err_msg=str(key))
        np.testing.assert_allclose(result["loss_sem"], reference["loss_sem"], rtol=1e-4)
        assert result["bits_per_byte"] == pytest.approx(reference["bits_per_byte"], rel=1e-6)


def test_bits_per_byte_count_the_raw_bytes(text):
    result, task = evaluated(config(text), 1)
    windows = task.eval.windows(task.sample, 32)[:, 1:]
    raw = np.count_nonzero(windows)  # byte 0 ends a document and is no text
    assert raw < windows.size
    assert result["bits_per_byte"] == pytest.approx(result["loss"] * windows.size / np.log(2) / raw)
    assert set(objectives.of(config(text)).METRICS) <= {name for name, value in result.items() if type(value) is float}


def test_the_standard_error_is_that_of_a_ratio_over_documents(text):
    _, task = evaluated(config(text), 1)
    nats = np.random.default_rng(1).normal(2.0, 0.1, (len(task.sample), 32))
    summary = task.summarize([nats])
    ids = task.eval.document_ids(task.sample, 32)
    sums = np.array([nats[ids == d].sum() for d in np.unique(ids)])
    counts = np.array([(ids == d).sum() for d in np.unique(ids)])
    left_out = [(sums.sum() - s) / (counts.sum() - c) for s, c in zip(sums, counts, strict=True)]
    m = len(sums)
    jackknife = np.sqrt((m - 1) / m * np.sum((left_out - np.mean(left_out)) ** 2))
    assert summary["loss_sem"] == pytest.approx(jackknife, rel=0.1)
    assert summary["eval_documents"] == m


def test_a_run_goes_from_text_to_record(text, tmp_path):
    full = config(text, **{"duration.steps": 60, "optimizer.learning_rate": 0.02, "mesh.data": 1})
    result = loop.run(full, tmp_path)
    assert result["status"] == "completed" and result["loss"] < 3.0 < np.log(256)
    assert result["vocab_size"] == 256 and result["seq_len"] == 32 and result["tokens"] == 60 * 8 * 32
    available = result["tokens"] / result["epochs"]
    assert result["unique_tokens"] == min(result["tokens"], available) and len(result["data_hash"]) == 64
    assert result["attention"].startswith("blocked") and result["document_masking"] is False
    again = loop.run(full, tmp_path / "again")
    assert again["loss"] == result["loss"]


LSTM = {"model.name": "lstm", "model.heads": None}


class Cut(Exception):
    pass


def test_a_carried_state_goes_on_after_a_cut(text, tmp_path):
    changes = {"model.stateful": True, "data.tokenizer": "bpe:280", "duration.steps": 30, "checkpoint.every_steps": 5}
    full = config(text, **LSTM, **changes)
    whole = loop.run(full, tmp_path / "whole")

    def cut(step, metrics):
        del metrics
        if step >= 17:
            raise Cut

    with pytest.raises(Cut):
        loop.run(full, tmp_path / "cut", loggers=[cut])
    result = loop.run(full, tmp_path / "cut")
    assert 0 < result["continued_from"] < 17 and result["loss"] == whole["loss"]
    assert read_metrics(tmp_path / "cut")[-1]["loss"] == read_metrics(tmp_path / "whole")[-1]["loss"]


def test_a_carried_state_is_that_of_the_row_s_last_window(text):
    """Without documents kept apart, the losses of batches in a row are those of one long window."""
    full = config(text, **LSTM, **{"model.stateful": True, "data.document_masking": False})
    task = family.build(configs.resolve(full))
    first, second = (task.batch(k, slice(None)) for k in (3, 4))
    assert not first["fresh"].any() and not second["fresh"].any()
    np.testing.assert_array_equal(first["tokens"][:, -1], second["tokens"][:, 0])
    variables = nn.meta.unbox(task.model.init(jax.random.key(0), {"init_scale": np.float32(3)}))
    params, stats, hyper = variables["params"], {"carry": variables["carry"]}, {"dropout": 0.0, "z_loss": 0.0}
    total, graded, score = 0.0, jax.jit(task.model.loss), jax.jit(task.model.score)
    for batch in (first, second):
        loss, (_, stats) = graded(params, stats, batch, jax.random.key(0), hyper)
        total += float(loss)
    both = np.concatenate([first["tokens"], second["tokens"][:, 1:]], axis=1)
    assert score(params, {}, {"tokens": both}).sum() == pytest.approx(total, rel=1e-5)
    fresh = graded(params, stats, second | {"fresh": np.ones(8, bool)}, jax.random.key(0), hyper)[0]
    assert float(fresh) == pytest.approx(float(score(params, {}, {"tokens": second["tokens"]}).sum()), rel=1e-5)


def test_a_carried_state_ends_with_its_document(text):
    task = family.build(
        configs.resolve(config(text, **LSTM, **{"model.stateful": True, "data.document_masking": True}))
    )
    variables = nn.meta.unbox(task.model.init(jax.random.key(0), {"init_scale": np.float32(3)}))
    params, stats, hyper = variables["params"], {"carry": variables["carry"]}, {"dropout": 0.0, "z_loss": 0.0}
    batch = dict(task.batch(3, slice(None)))
    batch["tokens"] = np.where(np.arange(33) == 31, task.end, batch["tokens"])  # the last that is read
    graded = jax.jit(task.model.loss)
    _, (_, stats) = graded(params, stats, batch, jax.random.key(0), hyper)
    assert stats["carry"]["ended"].all()
    _, (_, stats) = graded(params, stats, task.batch(4, slice(None)), jax.random.key(0), hyper)
    alone = graded(params, {"carry": variables["carry"]}, task.batch(4, slice(None)), jax.random.key(0), hyper)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, alone[1][1])


@pytest.fixture(scope="module")
def losses(text, tmp_path_factory):
    """The logged losses of a run with some changes."""

    def losses(**changes):
        path = tmp_path_factory.mktemp("run")
        loop.run(config(text, **{"mesh.data": 1, **changes}), path)
        return [line["loss"] for line in read_metrics(path)]

    return losses


@pytest.mark.slow  # a step of them on a mesh: test_recurrent.py
@pytest.mark.parametrize("name", ["lstm", "gated_linear"])
def test_recurrent_models_train_alike_on_any_mesh(losses, name):
    changes = {**LSTM, "model.name": name} | ({"model.stateful": True} if name == "lstm" else {})
    one = losses(**changes)
    assert one[-1] < one[0] - 0.5
    np.testing.assert_allclose(losses(**changes, **{"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}), one, rtol=1e-5)


@pytest.fixture(scope="module")
def plain(losses):
    return losses()


@pytest.mark.parametrize(
    "switch",
    [
        pytest.param({"model.scan": True, "model.remat": "full"}, marks=pytest.mark.slow),
        {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "gradient_accumulation_steps": 2},
    ],
)
def test_speed_switches_and_meshes_leave_the_losses(losses, plain, switch):
    np.testing.assert_allclose(losses(**switch), plain, rtol=1e-5)


@pytest.mark.slow
def test_replicas_train_alike_on_any_mesh(losses):
    """The model pins its activations to the mesh within each replica."""
    apart = {"replicas.count": 2, "replicas.every": 5, "replicas.outer.name": "nesterov", "model.scan": True}
    one = losses(**apart)
    mesh = {"mesh.replica": 2, "mesh.data": 2, "mesh.tensor": 2}
    np.testing.assert_allclose(losses(**apart, **mesh), one, rtol=1e-5)


def test_the_seed_draws_values_and_the_order_of_the_text(text):
    def first(seed):
        return family.build(configs.resolve(config(text, seed=seed))).batch(0, slice(None))["tokens"]

    assert not np.array_equal(first(0), first(1))
    np.testing.assert_array_equal(first(1), first(1))


def test_batches_do_not_depend_on_who_asks_for_which_rows(text):
    task = family.build(configs.resolve(config(text)))
    whole = task.batch(5, slice(None))["tokens"]
    np.testing.assert_array_equal(
        np.concatenate([task.batch(5, slice(i, i + 2))["tokens"] for i in range(0, 8, 2)]), whole
    )


def test_a_markov_language_is_learnt_to_its_entropy(tmp_path):
    partial = ConfigDict(
        {
            "task": "lm",
            "model": {"width": 32, "depth": 1},
            "data": {"corpus": "markov", "seq_len": 64, "corpus_args": {"symbols": 16}},
            "batch_size": 32,
            "duration": {"steps": 200},
            "optimizer": {"learning_rate": 0.01},
            "evaluation": {"tokens": 16_384},
            "mesh": {"data": 1},
        }
    )
    result = loop.run(configs.complete(partial), tmp_path)
    entropy = family.build(configs.resolve(configs.complete(partial))).text.entropy_rate
    assert cli.main(["evaluate", str(tmp_path), f"--predictions={tmp_path}/tokens.parquet"]) == 0
    tokens = pd.read_parquet(tmp_path / "tokens.parquet")
    assert len(tokens) == result["eval_tokens"] and tokens["nats"].mean() == pytest.approx(result["loss"], rel=1e-5)
    by_position = tokens.groupby("position")["nats"].mean()
    assert len(by_position) == 64
    assert by_position[31:63].mean() == pytest.approx(result["loss_second_half"], rel=1e-5)
    assert abs(result["loss"] - entropy) < 3 * result["loss_sem"] + 0.02 < np.log(16) - entropy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.dropout": 1.5}, r"model.dropout: must be in \[0, 1\)"),
        ({"model.name": "decoderr"}, r"model.name: no 'decoderr'.* decoder"),
        ({"model.name": "lstm"}, r"model.heads is not used by lstm \(it uses depth, width, tied, stateful\)"),
        (
            {**LSTM, "model.stateful": True, "gradient_accumulation_steps": 2},
            "model.stateful: .* from micro-batch to micro-batch",
        ),
        ({**LSTM, "model.stateful": True, "replicas.count": 2}, "model.stateful: .* which replicas would share out"),
        (
            {
                **LSTM,
                "model.stateful": True,
                "data.corpus": "markov",
                "evaluation.tokens": 64,
                "data.corpus_args.paths": "",
            },
            "markov",
        ),
        ({"model.size": 1e5}, "model.size: width and depth are both given"),
        ({**LSTM, "model.size": 1e5, "model.depth": None}, "model.size: the width is given"),
        (
            {f"model.{key}": 32 if key == "mlp_width" else 2 for key in ("kv_heads", "mlp_width")}
            | {"model.size": 1e5},
            "model.size: width and depth are both given",
        ),
        ({"model.init_scale": -0.5}, "model.init_scale: must not be negative, got -0.5"),
        ({"evaluation.batch_size": 0}, "evaluation.batch_size: must be at least 1, got 0"),
        (
            {"early_stopping.metric": "accuracy"},
            "early_stopping.metric: the evaluation gives no 'accuracy' .it gives loss, ",
        ),
        ({"optimizer.lr_multipliers": (("heads", 0.0),)}, "optimizer.lr_multipliers: no parameter matches 'heads'"),
        ({"model.heads": 3}, "heads"),
        ({"data.seq_len": 0}, "data.seq_len: must be at least 1"),
        ({"data.seq_len": 100_000}, "less than one batch|no window"),
        ({"data.corpus": "nothing"}, "nothing"),
    ],
)
def test_bad_sections_are_refused(text, changes, message):
    with pytest.raises(BadInput, match=message):
        family.build(configs.resolve(config(text, **changes)))


@pytest.mark.parametrize(("old", "new"), family.RENAMED.items())
def test_a_key_of_before_is_refused_with_its_new_name(old, new):
    section, key = old.split(".")
    assert new.split(".")[1] in family.defaults()[section]
    with pytest.raises(BadInput, match=f"^config: {old} is now called {new}$"):
        configs.complete(ConfigDict({"task": "lm", section: {key: 1}}))
