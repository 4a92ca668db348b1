"""Masked tokens, labels, pairs and prefixes through the engine: evaluation, runs to their record, fine-tuning, bad input."""

import functools
import json
import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from ml_collections import ConfigDict
from tiers import tiered

from lm import objectives, task as family
from lm.objectives import spans as spans_of
from training import config as configs, evaluation, identity, load, loop, mesh as meshes
from training.errors import BadInput
from training.lines import read_metrics

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
            "model": {"name": "encoder", "width": 16, "depth": 1, "heads": 2},
            "data": {
                "corpus": "files",
                "corpus_args": files if labelled else {"paths": f"{texts}/*.txt"},
                "tokenizer": "bpe:300",
                "seq_len": 32,
                "eval_fraction": 0.25,
                "cache_dir": str(texts / "cache"),
            },
            "batch_size": 16,
            "duration": {"steps": 12},
            "optimizer": {"learning_rate": 0.01},
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


@pytest.mark.parametrize("labelled", tiered([False, True], [True]))
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
    full = config(texts, labelled, **changes)
    result = loop.run(full, path)
    assert set(objectives.of(full).METRICS) <= result.keys()  # what may decide when to stop
    return result, [line["loss"] for line in read_metrics(path)]


WAYS = [WIDE | {"gradient_accumulation_steps": 2}, WIDE, {"gradient_accumulation_steps": 4}]


@pytest.mark.parametrize("way", tiered(WAYS, WAYS[:1]))
def test_a_masked_run_goes_from_text_to_record_on_any_mesh(texts, tmp_path, way):
    result, one = losses(texts, tmp_path / "one", **{"duration.steps": 40})
    assert result["status"] == "completed" and one[-1] < 0.75 * one[0]
    assert result["tokens"] == 40 * 16 * 32 and "bits_per_byte" not in result
    assert result["eval_tokens"] == len(built(config(texts)).sample) * 5
    _, other = losses(texts, tmp_path / "other", **{"duration.steps": 40, **way})
    np.testing.assert_allclose(other, one, rtol=2e-5)


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


@pytest.mark.parametrize("mesh", tiered([{}, WIDE], [{}]), ids=["one", "wide"])
def test_a_labelled_run_learns_its_topics_from_a_parent(texts, tmp_path, mesh):
    parent, _ = losses(texts, tmp_path / "parent", **{"duration.steps": 30})
    changes = {"duration.steps": 60, "duration.epochs": None}
    scratch, _ = losses(texts, tmp_path / "scratch", True, **changes)
    assert scratch["accuracy"] > 0.8 and {"precision", "recall", "f1", "calibration_error"} <= scratch.keys()
    assert scratch["num_classes"] == 3
    start = {"init_from.run": str(tmp_path / "parent"), "init_from.reinit": ("pooler/.*", "classifier/.*")}
    start["data.tokenizer"] = str(tmp_path / "parent" / "tokenizer.json")
    tuned, curve = losses(texts, tmp_path / "tuned", True, **changes, **start, **{"init_from.step": 30})
    assert tuned["accuracy"] > 0.5 and tuned["parent"] == f"{parent['run_id']}:30"
    if mesh:
        _, many = losses(texts, tmp_path / "many", True, **changes, **start, **{"init_from.step": 30, **mesh})
        np.testing.assert_allclose(many[:18], curve[:18], rtol=2e-5)  # later steps magnify the order of the sums
    with pytest.raises(BadInput, match=r"init_from\.run: .*parent has the tokenizer_hash [0-9a-f]{64}, and this run"):
        losses(texts, tmp_path / "other", **{"init_from.run": str(tmp_path / "parent"), "data.tokenizer": "bpe:301"})
    with pytest.raises(BadInput, match=r"init_from\.run: .* missing classifier/bias; missing classifier/kernel"):
        losses(texts, tmp_path / "whole", True, **{**changes, **start, "init_from.reinit": ("pooler/.*",)})


def test_copies_of_a_text_stay_in_one_split(texts):
    task = built(config(texts, labelled=True))
    sides = [
        {text.tobytes() for text in split.texts(np.arange(split.num_documents))} for split in (task._train, task._eval)
    ]
    assert not sides[0] & sides[1] and len(sides[0]) + len(sides[1]) == 600


# Pairs and prefixes ---------------------------------------------------------------------------------------------------

WORDS = {"bread": "brot", "salt": "salz", "moon": "mond", "dust": "staub", "law": "satz", "fit": "guss"}
PAIRED = {"model.name": "encoder_decoder"}


@pytest.fixture(scope="module")
def languages(tmp_path_factory):
    """Sentences and their word-for-word translations, in line-aligned files."""
    folder, rng = tmp_path_factory.mktemp("languages"), np.random.default_rng(0)
    lines = [[str(word) for word in rng.choice(list(WORDS), 1 + i % 4)] for i in range(2000)]
    (folder / "a.en").write_text("\n".join(" ".join(line) for line in lines))
    (folder / "a.de").write_text("\n".join(" ".join(WORDS[word] for word in line) for line in lines))
    return folder


def translated(texts, languages, **changes):
    args = {"paths": f"{languages}/a.en", "target_paths": f"{languages}/a.de"}
    given = {f"data.corpus_args.{key}": value for key, value in args.items()}
    return config(texts, **PAIRED, **{"data.corpus": "aligned", "data.tokenizer": "bpe:290", **given, **changes})


def test_pairs_are_shown_from_end_to_end(texts, languages):
    task = built(translated(texts, languages))
    batch, store = task.batch(0, slice(None)), task._store
    for row in range(16):
        source = batch["source"][row, : batch["source_length"][row]]
        count = batch["target_length"][row]
        assert batch["read"][row, 0] == store.end == batch["predicted"][row, count - 1]
        np.testing.assert_array_equal(batch["read"][row, 1:count], batch["predicted"][row, : count - 1])
        target = store.tokenizer.decode(batch["predicted"][row, : count - 1])
        assert " ".join(WORDS[word] for word in store.tokenizer.decode(source).split()) == target
    rows = task.batch(0, slice(3, 7))
    for name, array in batch.items():
        np.testing.assert_array_equal(array[3:7], rows[name])


def test_a_translation_is_learnt_and_scored(texts, languages, tmp_path):
    changes = {"data.seq_len": 8, "duration.steps": 300, "evaluation.tokens": 16 * 40, "model.width": 32}
    changes["model.positions"] = "sinusoidal"
    full = translated(texts, languages, **changes)
    result = loop.run(full, tmp_path / "run")
    assert set(objectives.of(full).METRICS) <= result.keys()
    assert result["loss"] < 0.1 and result["bleu"] > 85 and result["chrf"] > 85 and result["bits_per_byte"] < 1
    assert result["pairs_left_out"] > 0 and result["tokens"] == 300 * 16 * 16
    task = built(full)
    kept = [len(text) + 1 for text in task._train.texts(task._pairs, 1)]
    assert max(kept) <= 8 and task._train.num_documents == len(kept) + result["pairs_left_out"]


@pytest.mark.slow
def test_pairs_train_alike_on_any_mesh_and_smoothing_is_not_reported(texts, languages, tmp_path):
    def curve(name, **changes):
        loop.run(translated(texts, languages, **changes), tmp_path / name)
        return [line["loss"] for line in read_metrics(tmp_path / name)]

    one = curve("one")
    np.testing.assert_allclose(curve("many", **WIDE), one, rtol=2e-5)
    np.testing.assert_allclose(curve("parts", gradient_accumulation_steps=4), one, rtol=2e-5)
    smoothed = curve("smoothed", **{"model.label_smoothing": 0.2})
    assert smoothed[0] == pytest.approx(one[0], rel=1e-6) and smoothed[-1] != one[-1]


def test_smoothing_is_that_of_even_labels(texts, languages):
    task = built(translated(texts, languages, **{"model.label_smoothing": 0.3}))
    batch, params, network = task.batch(0, slice(None)), drawn(task.model), task.model.network
    hyper = {"dropout": 0.0, "label_smoothing": np.float32(0.3)}
    total, (sums, _) = jax.jit(task.model.loss)(params, {}, batch, jax.random.key(0), hyper)
    seen = np.arange(32) < batch["source_length"][:, None]
    states, head = jax.jit(network.hidden)(params, batch["source"], batch["read"], seen)
    logp = np.array(jax.nn.log_softmax(states @ head.T))
    labels = 0.7 * np.eye(290)[batch["predicted"]] + 0.3 / 290
    counted = np.arange(32) < batch["target_length"][:, None]
    assert float(total) == pytest.approx(-(labels * logp).sum(axis=2)[counted].sum(), rel=1e-5)
    assert float(sums["weight"]) == counted.sum()


def test_a_prefix_is_read_and_the_rest_predicted(texts, tmp_path):
    changes = {**PAIRED, "duration.steps": 30, "data.tokenizer": "bytes"}
    full = config(texts, **changes)
    task = built(full)
    batch = task.batch(0, slice(None))
    windows = task.train.batch(task.seed, 0, 16, 32)
    np.testing.assert_array_equal(np.concatenate([batch["source"], batch["predicted"]], axis=1), windows[:, :-1])
    assert batch["predicted"].shape == (16, 16) and (batch["read"][:, 0] == task.text.end).all()
    np.testing.assert_array_equal(batch["read"][:, 1:], batch["predicted"][:, :-1])
    result, curve = losses(texts, tmp_path / "one", **changes)
    assert curve[-1] < 0.8 * curve[0] and result["bits_per_byte"] > 0
    assert result["eval_tokens"] == 16 * len(built(full).sample)
    with pytest.raises(BadInput, match=r"data\.document_masking: an encoder-decoder sees all"):
        configs.resolve(config(texts, **PAIRED, **{"data.document_masking": True}))


@given(
    length=st.integers(8, 60),
    cut=st.integers(1, 20),
    spans=st.integers(1, 8),
    number=st.integers(0, 2**40),
    key=st.integers(0, 9),
)
def test_what_is_cut_out_of_a_window_is_in_its_target(length, cut, spans, number, key):
    assume(spans <= cut and spans <= length - cut)
    read, numbers = np.arange(3 * length).reshape(3, length), np.array([number, 0, 1])
    made = spans_of.corrupt(read, key, numbers, cut, spans, sentinel=1000)
    alone = spans_of.corrupt(read[:1], key, numbers[:1], cut, spans, sentinel=1000)
    assert made["source"].shape == (3, length - cut + spans) and made["predicted"].shape == (3, cut + spans + 1)
    for row in range(3):
        source, target = made["source"][row].tolist(), made["predicted"][row].tolist()
        assert [symbol - 1000 for symbol in source if symbol >= 1000] == [*range(spans)]
        assert [symbol - 1000 for symbol in target if symbol >= 1000] == [*range(spans + 1)] and target[
            -1
        ] == 1000 + spans
        gone = {symbol: [] for symbol in target if symbol >= 1000}
        current = 1000
        for symbol in target:
            current = symbol if symbol >= 1000 else current
            gone[current] += [symbol] if symbol < 1000 else []
        assert gone.pop(1000 + spans) == [] and all(gone.values())
        whole = [token for symbol in source for token in (gone[symbol] if symbol >= 1000 else [symbol])]
        assert whole == read[row].tolist()
        places = made["places"][row]
        assert [read[row][place] for place, symbol in zip(places, target, strict=True) if symbol < 1000] == [
            symbol for symbol in target if symbol < 1000
        ]
    assert all((alone[name][0] == made[name][0]).all() for name in made)


def test_spans_are_spread_evenly_over_all_that_there_are():
    """Of 6 tokens, 3 in 2 spans: 2 x 2 windows, each as likely."""
    made = spans_of.corrupt(np.tile(np.arange(6), (4000, 1)), 5, np.arange(4000), 3, 2, sentinel=10)
    found, times = np.unique(made["source"], axis=0, return_counts=True)
    assert len(found) == 4 and times.min() > 900


def test_spans_are_cut_and_predicted_before_translation(texts, languages, tmp_path):
    """T5's way: one network is trained on running text first, then on pairs, in the symbols of the same tokenizer."""
    model = {"model.sentinels": 8, "data.tokenizer": "bytes", "data.seq_len": 40}
    full = config(texts, **PAIRED, **model, **{"duration.steps": 30, "checkpoint.final": True, "seed": 1})
    assert objectives.of(full).__name__ == "lm.objectives.spans"
    result = loop.run(full, tmp_path / "parent")
    assert 0 < result["loss"] < math.log(256) and result["loss_sem"] > 0
    resolved = configs.resolve(full)
    task = family.build(resolved)
    batch = task.batch(0, slice(0, 4))
    assert batch["source"].shape == (4, 40 - 6 + 2) and batch["predicted"].shape == (4, 6 + 2 + 1)
    assert result["tokens"] == 30 * 16 * (40 - 6 + 2 + 6 + 2 + 1)
    again = task.batch(0, slice(2, 4))
    assert all((again[name] == batch[name][2:]).all() for name in batch)
    few = {"duration.steps": 2, "evaluation.tokens": 16 * 40}
    tuned = translated(texts, languages, **model, **few, **{"init_from.run": str(tmp_path / "parent")})
    child = loop.run(tuned, tmp_path / "child")
    assert child["bleu"] >= 0 and child["parent"] == f"{result['run_id']}:30"


def test_a_run_of_before_sentinels_has_none(texts, tmp_path):
    full = config(texts, **PAIRED, **{"data.tokenizer": "bytes", "duration.steps": 1})
    result = loop.run(full, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    kept = json.loads(path.read_text())
    assert kept["model"].pop("sentinels") == 0
    path.write_text(json.dumps(kept))
    again = load.config_of(tmp_path / "run")
    assert again.model.sentinels == 0 and again.model.width == 16 and identity.run_id(again) == result["run_id"]
    assert objectives.of(again).__name__ == "lm.objectives.prefix"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.sentinels": 2}, "model.sentinels: 2 spans of a window of 32 want 3, got 2"),
        ({"data.seq_len": 1}, "data.seq_len: no span can be cut from a window of 1"),
    ],
)
def test_spans_that_cannot_be_cut(texts, changes, message):
    with pytest.raises(BadInput, match=f"^{message}$"):
        configs.resolve(config(texts, **{"model.name": "encoder_decoder", "model.sentinels": 8, **changes}))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (("a\nb\n", "a\n"), r"a\.en: 2 lines, and 1 in .*a\.de"),
        (("a\n\nc\n", "a\nb\nc\n"), r"a\.en:2: an empty line, where a pair has two sides"),
        (("a" * 50, "b"), "no pair has two sides of at most 32 tokens"),
    ],
)
def test_sides_that_do_not_match(texts, tmp_path, sides, message):
    for end, text in zip(("en", "de"), sides, strict=True):
        (tmp_path / f"a.{end}").write_text(text)
    with pytest.raises(BadInput, match=message):
        built(translated(texts, tmp_path, **{"data.tokenizer": "bytes", "data.eval_fraction": 0.0}))


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
