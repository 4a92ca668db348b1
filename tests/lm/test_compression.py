"""Language models of few bits and few weights, from a config to what is evaluated and generated."""

import json

import pytest
from ml_collections import ConfigDict

from isoflop import cli
from training import config as configs, loop


def config(**changes):
    partial = ConfigDict(
        {
            "task": "lm",
            "model": {"width": 16, "depth": 2, "heads": 2},
            "data": {"corpus": "markov", "seq_len": 16, "corpus_args": {"symbols": 8}},
            "batch_size": 16,
            "horizon": {"steps": 40},
            "optimizer": {"peak_lr": 0.01},
            "evaluation": {"tokens": 2048},
            "mesh": {"data": 1},
        }
    )
    full = configs.complete(partial)
    full.update_from_flattened_dict(changes)
    return full


@pytest.mark.parametrize("scan", [False, True])
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


def test_sparse_models_keep_their_embedding(tmp_path):
    result = loop.run(config(**{"prune.sparsity": 0.75, "prune.every": 1}), tmp_path)
    dense = result["params_total"]
    assert result["density"] == pytest.approx(0.25, abs=0.01)
    assert result["params_nonzero"] == pytest.approx(dense - 0.75 * 2 * 12 * 16**2, rel=0.01)
