"""Masked tokens and labelled texts through the engine: what is evaluated, runs to their record, fine-tuning, bad input."""

import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from lm import objectives, task as family
from training import config as configs, evaluation, loop, mesh as meshes, record
from training.errors import BadInput

TOPICS = {
    "food": ["bread", "salt", "soup", "plum"],
    "stars": ["orbit", "comet", "moon", "dust"],
    "law": ["loss", "fit"],
}
COMMON = ["the", "of", "and", "a", "in"]
WIDE = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Sentences of three topics, as running text and as JSONL with labels, and a cache."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    lines = []
    for i in range(600):
        topic = list(TOPICS)[i % 3]
        words = [str(rng.choice(TOPICS[topic] if rng.random() < 0.4 else COMMON)) for _ in range(8)]
        lines.append({"said": f"{' '.join(words)} {i}", "topic": topic})
    (folder / "topics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for part in range(20):
        chapter = lines[part * 30 : part * 30 + 30]
        (folder / f"{part:02}.txt").write_text(". ".join(line["said"] for line in chapter))
    return folder


def config(texts, labelled=False, **changes):
    files = {"paths": f"{texts}/topics.jsonl", "text_key": "said", "target_key": "topic"}
    partial = ConfigDict(
        {
            "task": "lm",
            "model": {"name": "encoder", "width": 16, "depth": 2, "heads": 2},
            "data": {
                "corpus": "files",
                "corpus_args": files if labelled else {"paths": f"{texts}/*.txt"},
                "tokenizer": "bpe:300",
                "seq_len": 32,
                "eval_fraction": 0.25,
                "cache_dir": str(texts / "cache"),
            },
            "batch_size": 16,
            "horizon": {"steps": 12},
            "optimizer": {"peak_lr": 0.01},
            "mesh": {"data": 1},
            "log": {"every": 1},
            "evaluation": {"batch_size": 32},
        }
    )
    full = configs.complete(partial)
    full.update_from_flattened_dict(changes)
    return full


def built(full):
    return family.build(configs.resolve(full))


@functools.lru_cache
def drawn(model):
    init = jax.jit(lambda key: nn.meta.unbox(model.init(key, {"init_scale": 1.0}))["params"])
    return jax.tree.map(np.asarray, init(jax.random.key(0)))


def test_the_objective_follows_from_model_and_corpus(texts):
    assert objectives.of(config(texts)).__name__ == "lm.objectives.masked"
    assert objectives.of(config(texts, labelled=True)).__name__ == "lm.objectives.labels"
    with pytest.raises(BadInput, match=r"model\.name: decoder does not learn from pairs"):
        configs.resolve(config(texts, labelled=True, **{"model.name": "decoder"}))


@pytest.mark.parametrize("labelled", [False, True])
def test_evaluation_does_not_depend_on_batches_or_devices(texts, labelled):
    results = []
    for size, devices in ((32, 1), (7, 1), (8, 8)):
        task = built(config(texts, labelled, **{"evaluation.batch_size": size}))
        grid = meshes.build({"data": devices, "fsdp": 1, "tensor": 1})
        results.append(evaluation.evaluate(task, drawn(task.model), {}, grid))
    for result in results[1:]:
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-6)
        assert result["loss_sem"] == pytest.approx(results[0]["loss_sem"], rel=1e-4)
    assert results[0]["loss_sem"] > 0


def test_masked_windows_hold_the_wanted_number_of_tokens(texts):
    full = configs.resolve(config(texts))
    batch = built(full).batch(3, slice(None))
    assert batch["places"].shape == (16, 5) == batch["targets"].shape  # round(0.15 * 32)
    rows = built(full).batch(3, slice(4, 9))
    for name, array in batch.items():
        np.testing.assert_array_equal(array[4:9], rows[name])
    epoch = family.available(full) // 16
    assert not np.array_equal(built(full).batch(3 + epoch, slice(None))["places"], batch["places"])


def losses(texts, path, labelled=False, **changes):
    result = loop.run(config(texts, labelled, **changes), path)
    return result, [line["loss"] for line in record.read_metrics(path)]


def test_a_masked_run_goes_from_text_to_record_on_any_mesh(texts, tmp_path):
    result, one = losses(texts, tmp_path / "one", **{"horizon.steps": 40})
    assert result["status"] == "completed" and one[-1] < 0.75 * one[0]
    assert result["tokens"] == 40 * 16 * 32 and "bits_per_byte" not in result
    assert result["eval_tokens"] == len(built(config(texts)).sample) * 5
    _, many = losses(texts, tmp_path / "many", **{"horizon.steps": 40, **WIDE})
    np.testing.assert_allclose(many, one, rtol=2e-5)
    _, parts = losses(texts, tmp_path / "parts", **{"horizon.steps": 40, "accumulate": 4})
    np.testing.assert_allclose(parts, one, rtol=2e-5)


def test_texts_are_shown_behind_the_question_and_filled_up(texts):
    task = built(config(texts, labelled=True))
    batch = task.batch(0, slice(None))
    store, network = task._data.store, task.model.network
    names = [task._data.classes[label] for label in batch["label"]]
    for tokens, segments, name in zip(batch["tokens"], batch["segments"], names, strict=True):
        shown = segments == 0
        assert tokens[0] == network.question and (tokens[~shown] == store.end).all()
        words = set(store.tokenizer.decode(tokens[shown][1:]).split()) - set(COMMON)
        assert any(word in TOPICS[name] for word in words) or len(words) <= 1
    assert task._data.classes == ("food", "law", "stars")


def test_a_labelled_run_learns_its_topics_from_a_parent(texts, tmp_path):
    parent, _ = losses(texts, tmp_path / "parent", **{"horizon.steps": 30})
    changes = {"horizon.steps": 60, "horizon.epochs": None}
    scratch, _ = losses(texts, tmp_path / "scratch", True, **changes)
    assert scratch["accuracy"] > 0.8 and {"precision", "recall", "f1", "calibration_error"} <= scratch.keys()
    assert scratch["num_classes"] == 3
    start = {"start.run": str(tmp_path / "parent"), "start.fresh": ("pooler/.*", "classifier/.*")}
    tuned, curve = losses(texts, tmp_path / "tuned", True, **changes, **start, **{"start.step": 30})
    assert tuned["accuracy"] > 0.8 and tuned["parent"] == f"{parent['run_id']}:30"
    _, many = losses(texts, tmp_path / "many", True, **changes, **start, **{"start.step": 30, **WIDE})
    np.testing.assert_allclose(many, curve, rtol=1e-3)
    with pytest.raises(BadInput, match=r"start\.run: .* missing classifier/bias; missing classifier/kernel"):
        losses(texts, tmp_path / "whole", True, **changes, **{"start.run": str(tmp_path / "parent")})


def test_copies_of_a_text_stay_in_one_split(texts):
    task = built(config(texts, labelled=True))
    sides = [
        {text.tobytes() for text in split.texts(np.arange(split.num_documents))} for split in (task._train, task._eval)
    ]
    assert not sides[0] & sides[1] and len(sides[0]) + len(sides[1]) == 600


@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        (['{"said": "a", "topic": "b"}', '{"said": "c"}'], {}, r"bad\.jsonl:2: no text under the key 'topic'"),
        (['{"said": "a", "topic": " "}'], {}, r"bad\.jsonl:1: an empty side, where a pair has two"),
        (['{"said": "a", "topic": 1.5}'], {}, r"bad\.jsonl:1: no text under the key 'topic'"),
        ([f'{{"said": "a{i}", "topic": "t{i}"}}' for i in range(9)], {}, "of the evaluation split is on no training"),
        ([f'{{"said": "a{i}", "topic": {i % 2}}}' for i in range(9)], {"batch_size": 64}, "less than one batch of 64"),
    ],
)
def test_bad_pairs_are_named(texts, tmp_path, lines, changes, message):
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    args = {"data.corpus_args.paths": f"{tmp_path}/bad.jsonl", "data.tokenizer": "bytes", "data.eval_fraction": 0.5}
    with pytest.raises(BadInput, match=message):
        built(config(texts, True, **args, **changes))


def test_a_fraction_that_is_none(texts):
    with pytest.raises(BadInput, match=r"model\.mask_fraction: must be in \(0, 1\), got 1\.5"):
        configs.resolve(config(texts, **{"model.mask_fraction": 1.5}))
    with pytest.raises(BadInput, match=r"model\.mask_fraction is not used by decoder"):
        configs.resolve(config(texts, **{"model.name": "decoder", "model.mask_fraction": 0.3}))
