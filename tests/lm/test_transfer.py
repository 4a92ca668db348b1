"""Fine-tuning a language model on another corpus: in its parent's symbols, all of it, its head alone, layer by layer."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.lm import transfer as configured
from isoflop import cli
from sweeps import plan as plans
from training import checkpoint, config as configs, loop, transfer
from training.errors import BadInput

CORPORA = {
    "code": ["def", "return", "self", "import", "x", "=="],
    "prose": ["and", "the", "lord", "said", "unto", "née"],
}
STILL = {"optimizer.learning_rate": 1e-12, "optimizer.weight_decay": 0.0}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two corpora of unlike words, and the folder of a cache."""
    folder, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for name, words in CORPORA.items():
        (folder / name).mkdir()
        for i in range(40):
            (folder / name / f"{i:02}.txt").write_text(" ".join(rng.choice(words, 80)))
    return folder


def config(texts, corpus, **changes):
    partial = {
        "task": "lm",
        "model": {"width": 8, "depth": 2, "heads": 2},
        "data": {"corpus": "files", "seq_len": 16, "eval_fraction": 0.2, "tokenizer": "bpe:270"},
        "batch_size": 8,
        "duration": {"steps": 30},
        "optimizer": {"learning_rate": 0.01},
        "evaluation": {"batch_size": 8, "tokens": 512},
        "mesh": {"data": 1},
    }
    full = configs.complete(ConfigDict(partial))
    full.data.corpus_args.paths, full.data.cache_dir = f"{texts / corpus}/*.txt", str(texts / "cache")
    full.update_from_flattened_dict(changes)
    return full


@pytest.fixture(scope="module")
def parent(texts):
    path = texts / "parent"
    return path, loop.run(config(texts, "code"), path)


def child_of(parent, **changes):
    """Keys of a run in the symbols of its parent."""
    return {"init_from.run": str(parent), "data.tokenizer": str(parent / "tokenizer.json"), **changes}


def params(path):
    return checkpoint.named(jax.tree.map(np.asarray, checkpoint.load_params(path)))


def moved(path, parent):
    """By parameter, how far each of its first dimension is from the parent's."""
    before = params(parent)
    after = params(path)
    return {name: np.abs(after[name] - p).reshape(len(p), -1).max(axis=1) for name, p in before.items()}


def test_another_corpus_is_learnt_in_the_symbols_of_the_parent(texts, parent, tmp_path):
    path, record = parent
    own = config(texts, "prose", **{"init_from.run": str(path)})
    with pytest.raises(BadInput, match=r"init_from.run: .*parent has the tokenizer_hash"):
        loop.run(own, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    still = loop.run(config(texts, "prose", **child_of(path), **STILL), tmp_path / "still")
    assert still["tokenizer_hash"] == record["tokenizer_hash"] and still["data_hash"] != record["data_hash"]
    assert max(gap.max() for gap in moved(tmp_path / "still", path).values()) < 1e-6
    tuned = loop.run(config(texts, "prose", **child_of(path)), tmp_path / "tuned")
    assert tuned["loss"] < still["loss"] - 0.1, "it learns the prose"
    assert tuned["parent"] == f"{record['run_id']}:30"
    assert tuned["parent_tokens"] == record["tokens"]


def test_the_head_alone_and_layers_at_rates_of_their_own(texts, parent, tmp_path):
    path, record = parent
    head = loop.run(config(texts, "prose", **child_of(path, **configured.WAYS["head"])), tmp_path / "head")
    gap = moved(tmp_path / "head", path)
    assert {name for name, far in gap.items() if far.max() > 0} == {"embed/embedding", "final_norm/scale"}
    assert head["params_trained"] == 270 * 8 + 8 < record["params_trained"] == record["params_total"]
    rates = configured.WAYS["layerwise"]["optimizer.lr_multipliers"]
    found = checkpoint.named(transfer.lr_multipliers(checkpoint.load_params(path), rates))
    assert found["blocks/mlp/up/kernel"].ravel().tolist() == [0.5, 1.0]
    assert found["embed/embedding"].item() == 0.25 and found["final_norm/scale"].item() == 1.0


def test_low_rank_factors_learn_and_are_merged_wherever_the_run_is_used(texts, parent, tmp_path, capsys):
    path, record = parent
    lora = {"lora.rank": 2, "lora.targets": ("blocks/attention/(query|value)/kernel",)}
    first = loop.run(config(texts, "prose", **child_of(path, **lora, **STILL)), tmp_path / "first")
    tuned = loop.run(config(texts, "prose", **child_of(path, **lora)), tmp_path / "tuned")
    assert tuned["loss"] < first["loss"]
    assert tuned["params_trained"] == 2 * 2 * 2 * (8 + 8) and tuned["params_total"] == record["params_total"]
    still = {name: far.max() for name, far in moved(tmp_path / "tuned", path).items()}
    assert still.keys() == params(path).keys() and not any(still.values())
    assert cli.main(["evaluate", str(tmp_path / "tuned"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(tuned["loss"], rel=1e-5)
    assert cli.main(["generate", str(tmp_path / "tuned"), "--prompt=the ", "--tokens=4"]) == 0


def test_the_sweep_begins_every_size_with_its_own_parent(tmp_path, monkeypatch, texts):
    monkeypatch.chdir(tmp_path)
    sweep = plans.complete(configured.get_config(), "transfer.py")
    assert len(sweep.design) == 2 * len(configured.WIDTHS) * len(configured.TOKENS)
    assert {point["init_from.run"] for point in sweep.design} == {"", "runs/transfer-parents"}
    both = [plans.complete(configured.get_config(arg), "x").base.data.corpus for arg in ("parents", "parents-reverse")]
    assert both == ["stdlib", "bible"]
    with pytest.raises(ValueError, match="the argument is parents, ways or nothing"):
        configured.get_config("parent")
