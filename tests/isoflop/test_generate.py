"""`isoflop generate` on a run that was trained a moment before."""

import itertools
import json
from pathlib import Path

import pytest

from isoflop import cli


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    for name in range(60):
        (folder / f"{name}.txt").write_text("abcdefgh" * (50 + name))
    config = folder / "config.py"
    config.write_text(
        f"""
from ml_collections import ConfigDict


def get_config(arg=""):
    return ConfigDict({{
        "batch_size": 8,
        "duration": {{"steps": 60}},
        "mesh": {{"data": 1}},
        "model": {{"width": 16, "depth": 1, "heads": 2, "kv_heads": 2, "mlp_width": 32}},
        "optimizer": {{"learning_rate": 0.03}},
        "data": {{
            "corpus": "files", "corpus_args": {{"paths": "{folder}/*.txt"}}, "seq_len": 32,
            "eval_fraction": 0.25, "cache_dir": "{folder}/cache",
        }},
    }})
"""
    )
    assert cli.main(["train", f"--config={config}", f"--workdir={folder / 'run'}"]) == 0
    return folder / "run"


def sample(capsys, *argv):
    assert cli.main(["generate", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["samples"]


def test_text_goes_on_as_the_corpus_does(capsys, trained):
    capsys.readouterr()
    greedy = sample(capsys, trained, "--prompt=cde", "--prompt=abcdefghab", "--tokens=40", "--temperature=0")
    assert [row["prompt"] for row in greedy] == ["cde", "abcdefghab"]
    assert greedy[0]["text"] == ("fghabcde" * 5) and greedy[0]["tokens"] == 40
    assert greedy[1]["text"] == ("cdefghab" * 5)


def test_a_seed_gives_the_same_text_again(capsys, trained):
    capsys.readouterr()
    argv = (trained, "--prompt=a", "--tokens=30", "--temperature=3")
    assert sample(capsys, *argv, "--seed=1") == sample(capsys, *argv, "--seed=1") != sample(capsys, *argv, "--seed=2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name one run directory"),
        (["nowhere"], "nowhere: no run directory"),
        (["RUN", "--step=7"], "no checkpoint of step 7"),
        (["RUN", "--temperature=-1"], "temperature"),
        (["RUN", "--tokens=0"], "new tokens"),
        (["RUN", "--beams=2"], "--beams: want 1, or more of an encoder-decoder, got 2"),
    ],
)
def test_bad_input_is_one_line(capsys, trained, argv, message):
    capsys.readouterr()
    assert cli.main(["generate", *(str(trained) if word == "RUN" else word for word in argv)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_what_writes_no_text_is_refused(capsys, trained, tmp_path):
    capsys.readouterr()
    config = json.loads((trained / "config.json").read_text())
    shape = {"width": 8, "depth": 1, "heads": 1, "mlp_width": 8}
    encoder = {"task": "lm", "model": {"name": "encoder", **shape}, "derived": {"schema": config["derived"]["schema"]}}
    for found, message in (
        ({"task": "vision", "derived": {"schema": config["derived"]["schema"]}}, "needs a language model"),
        (encoder, "needs a model that writes text, an encoder does not"),
        (config, "no file"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(found))
        assert cli.main(["generate", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_an_encoder_decoder_writes_what_follows_from_its_source(capsys, tmp_path):
    words = ["".join(word) for n in (2, 3, 4) for word in itertools.product("abc", repeat=n)]
    pairs = [(word, word.upper()) for word in words]
    for side, end in enumerate(("low", "high")):
        (tmp_path / f"a.{end}").write_text("\n".join(pair[side] for pair in pairs))
    (tmp_path / "config.py").write_text(
        f"""
from ml_collections import ConfigDict


def get_config(arg=""):
    return ConfigDict({{
        "batch_size": 8,
        "duration": {{"steps": 200}},
        "mesh": {{"data": 1}},
        "model": {{
            "name": "encoder_decoder", "width": 16, "depth": 1, "heads": 2, "positions": "sinusoidal",
        }},
        "optimizer": {{"learning_rate": 0.02}},
        "data": {{
            "corpus": "aligned", "seq_len": 8, "eval_fraction": 0.1, "cache_dir": "{tmp_path}/cache",
            "corpus_args": {{"paths": "{tmp_path}/a.low", "target_paths": "{tmp_path}/a.high"}},
        }},
        "evaluation": {{"tokens": 64}},
    }})
"""
    )
    config = tmp_path / "config.py"
    assert cli.main(["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]) == 0
    capsys.readouterr()
    for beams in (1, 3):
        found = sample(capsys, tmp_path / "run", "--prompt=aab", "--prompt=abab", f"--beams={beams}")
        assert [row["text"] for row in found] == ["AAB", "ABAB"]
    assert cli.main(["generate", str(tmp_path / "run"), "--prompt=aaaaaaaaaaaaaa"]) == 2
    assert "14 tokens, where the model was trained on up to 8" in capsys.readouterr().err
