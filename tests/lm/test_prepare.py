"""`isoflop prepare`: the table and the JSON say what was built; a second call builds nothing; errors are one line."""

import json
from pathlib import Path

import pytest

from isoflop.cli import main

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=""):
    data = {{"corpus": "files", "corpus_args": {{"paths": {paths!r}}}, "cache_dir": {cache!r}, "eval_fraction": 0.3}}
    run = {{"task": "lm", "data": data}}
    if arg != "sweep":
        return ConfigDict(run)
    from sweeps.design import axis, product
    design = product(axis("data.tokenizer", ["bytes", "bpe:260"]), axis("model.width", [8, 16]))
    return ConfigDict({{"base": run, "design": design}})
"""


@pytest.fixture
def config(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"text number {i}, and some more words of it")
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(paths=f"{tmp_path}/*.txt", cache=str(tmp_path / "cache")))
    return path


def prepare(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["prepare", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_json(config, capsys):
    code, out, _ = prepare(capsys, f"--config={config}", "--json")
    (store,) = json.loads(out)["stores"]
    assert code == 0 and store["corpus"] == "files" and store["tokenizer"] == "bytes" and store["vocab_size"] == 256
    train, held = store["splits"]["train"], store["splits"]["eval"]
    assert train["documents"] + held["documents"] == 20 and held["documents"] > 0
    assert train["tokens"] == train["bytes"] + train["documents"]
    assert {"tokenizer_hash", "corpus_hash", "data_hash"} <= set(store)
    assert json.loads((Path(store["path"]) / "manifest.json").read_text())["data_hash"] == store["data_hash"]


def test_table_and_repetition(config, capsys):
    first = prepare(capsys, f"--config={config}")[1]
    assert "train" in first and "eval" in first and "tokens" in first
    before = {path: path.stat().st_mtime_ns for path in config.parent.rglob("*.npy")}
    code, second, _ = prepare(capsys, f"--config={config}", "--verify")
    assert code == 0 and second.splitlines()[:3] == first.splitlines()[:3]
    assert {path: path.stat().st_mtime_ns for path in config.parent.rglob("*.npy")} == before


def test_a_sweep_prepares_each_dataset_once(config, capsys):
    code, out, _ = prepare(capsys, f"--config={config}:sweep", "--json")
    stores = json.loads(out)["stores"]
    assert code == 0 and [store["vocab_size"] for store in stores] == [256, 260]


def test_flags_reach_the_section(config, capsys):
    code, out, _ = prepare(capsys, f"--config={config}", "--config.data.tokenizer=bpe:260", "--json")
    assert code == 0 and json.loads(out)["stores"][0]["vocab_size"] == 260


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.corpus=stdlip", "did you mean 'stdlib'?"),
        ("--config.data.corpus_args.paths=/nonexistent/*.txt", "/nonexistent/*.txt: no such file"),
        ("--config.data.tokenizer=/nonexistent.json", "tokenizer '/nonexistent.json'"),
        ("--config.data.tokenizer=bpe:10000", "the corpus yields only"),
        ("--config.data.eval_fraction=1.5", "data.eval_fraction"),
        ("--config.data.separator=x", "separator"),
        ("operand", "no operands"),
    ],
)
def test_errors_are_one_line(config, capsys, flag, message):
    code, out, err = prepare(capsys, f"--config={config}", flag)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1 and "Traceback" not in err
    assert not list(config.parent.rglob("manifest.json")) and not list(config.parent.rglob("*.partial"))


def test_an_endless_language(tmp_path, capsys):
    path = tmp_path / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(arg=''):\n"
        "    return ConfigDict({'task': 'lm', 'data': {'corpus': 'markov'}})\n"
    )
    code, out, _ = prepare(capsys, f"--config={path}")
    assert code == 0 and "endless" in out
    store = json.loads(prepare(capsys, f"--config={path}", "--json")[1])["stores"][0]
    assert store["path"] is None and store["splits"]["train"]["tokens"] is None


def test_help(capsys):
    code, out, _ = prepare(capsys, "--help")
    assert code == 0 and "isoflop prepare --config=" in out and "--verify" in out
