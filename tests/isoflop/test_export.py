"""`isoflop export` and `isoflop import`: what leaves the project gives the same numbers elsewhere, and comes back."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from jax import export as jax_export
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file
from tiers import tiered

from isoflop import cli
from isoflop.commands.export import LOADING
from lm import objectives
from training import checkpoint, config as configs, load, state as states, step_spec
from training.files import write_json
from training.nets.block_config import clone
from training.task import resolve as family_of

TEXT = {"task": "lm", "batch_size": 2, "duration": {"steps": 1}, "mesh": {"data": 1}}
MARKOV = {"corpus": "markov", "corpus_args": {"symbols": 29}, "seq_len": 24}
SMALL = {"width": 24, "depth": 2}
GPT2 = {
    **SMALL, "heads": 3, "kv_heads": 3, "mlp_width": 40, "norm": "layer", "norm_eps": 1e-4, "positions": "learned",
    "bias": True, "activation": "gelu_exact",
}  # fmt: skip
LLAMA = {
    **SMALL, "heads": 6, "kv_heads": 2, "mlp_width": 40, "positions": "rotary", "rope_theta": 300.0, "activation": "swiglu",
    "tied": False,
}  # fmt: skip
MIXTRAL = LLAMA | {"name": "moe", "experts": 4, "experts_per_token": 2}
RUNS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mixtral": MIXTRAL,
    "sinusoidal": {**SMALL, "heads": 3, "positions": "sinusoidal", "scan": True},
    "gated_linear": {**SMALL, "depth": 1, "name": "gated_linear"},
    "lstm": {**SMALL, "depth": 1, "name": "lstm"},
    "encoder": {**SMALL, "depth": 1, "name": "encoder", "heads": 3},
    "encoder_decoder": {**SMALL, "depth": 1, "name": "encoder_decoder", "heads": 3},
}


def made(folder: Path, partial: dict, keep: bool = False) -> Path:
    """A run directory of a model that nobody trained, every parameter of which is spread out."""
    config = configs.resolve(configs.complete(ConfigDict(partial)))
    if config.task == "lm":
        network = objectives.of(config).network(config)
        variables = jax.jit(functools.partial(network.init, method="parameters"))(jax.random.key(0))
    else:
        variables = jax.jit(family_of(config.task).build(config).model.init)(jax.random.key(0), {"init_scale": 1.0})
    variables = nn.meta.unbox(dict(variables))
    rng = np.random.default_rng(1)
    spread = jax.tree.map(lambda leaf: leaf + 0.1 * np.abs(rng.normal(size=leaf.shape)).astype(np.float32), variables)
    params = spread.pop("params")
    folder.mkdir()
    write_json(folder / "config.json", json.loads(config.to_json_best_effort()))
    write_json(folder / "environment.json", {"tokenizer_hash": "of this run"})
    saved = checkpoint.Checkpoints(folder)
    moments = optax.identity().init(params)
    saved.save(3, states.State(step=np.zeros((), np.int32), params=params, stats=spread, moments=moments, ema=None))
    saved.close()
    if keep:
        family_of(config.task).build(config).keep(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run directories by name, made when they are first asked for."""
    folder, there = tmp_path_factory.mktemp("runs"), {}

    def run(name: str) -> Path:
        if name not in there:
            there[name] = made(folder / name, TEXT | {"model": RUNS[name], "data": MARKOV})
        return there[name]

    return run


def said(capsys, *argv, code=0):
    capsys.readouterr()
    found = cli.main([*map(str, argv), "--json"])
    out = capsys.readouterr()
    assert found == code, out.err
    if code:
        assert out.err.count("\n") == 1, out.err
        return out.err
    return json.loads(out.out)


def network(run: Path):
    config = load.config_of(run)
    return objectives.of(config).network(config), checkpoint.load_params(run)


def loaded(folder: Path):
    program = jax_export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    weights = dict(np.load(folder / "weights.npz"))
    return lambda *inputs: np.asarray(program.call(weights, *inputs))


def drawn(rows, length, symbols=29):
    return np.random.default_rng(rows).integers(1, symbols, (rows, length)).astype(np.int32)


# StableHLO ------------------------------------------------------------------------------------------------------------


def test_a_program_runs_where_there_is_only_jax_and_numpy(runs, tmp_path, capsys):
    """By the lines of the help and the docs, in a process of its own."""
    run, tokens = runs("llama"), np.zeros((2, 16), np.int32)
    record = said(capsys, "export", run, f"--out={tmp_path / 'exported'}")
    check = """
import sys
ours = {"flax", "optax", "orbax", "lm", "vision", "training", "isoflop", "ml_collections", "safetensors", "tokenizers"}
assert not ours & {name.split(".")[0] for name in sys.modules}, ours & set(sys.modules)
np.save("logits.npy", logits)
"""
    run_there = [sys.executable, "-c", LOADING + check]
    done = subprocess.run(run_there, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, params = network(run)
    expected = jax.jit(model)(params, tokens)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)
    assert LOADING.strip() in (Path(__file__).parents[2] / "docs" / "howto" / "export.md").read_text()
    assert record["run_id"] == load.config_of(run).derived.run_id and record["step"] == 3
    kept = json.loads((tmp_path / "exported" / "export.json").read_text())
    assert kept["inputs"] == [{"name": "tokens", "dtype": "int32", "shape": ["b", "t"]}]
    assert kept["output"]["shape"] == ["b", "t", 29] and kept["tokenizer_hash"] == "of this run"
    assert kept["platforms"] == ["cpu", "cuda", "tpu"] and kept["symbols"] == {"vocabulary": 29}


@pytest.mark.parametrize("name", tiered(["gpt2", "mixtral", "sinusoidal", "lstm"], ["mixtral", "lstm"]))
def test_any_batch_and_length_give_the_logits_of_the_run(runs, tmp_path, capsys, name):
    said(capsys, "export", runs(name), f"--out={tmp_path / 'out'}", "--platforms=cpu")
    model, params = network(runs(name))
    call, apply = loaded(tmp_path / "out"), jax.jit(model)
    for rows, length in ((1, 24), (3, 7)):
        tokens = drawn(rows, length)
        np.testing.assert_allclose(call(tokens), apply(params, tokens), atol=1e-5)


def test_learned_positions_bound_the_length(runs, tmp_path, capsys):
    said(capsys, "export", runs("gpt2"), f"--out={tmp_path / 'out'}", "--platforms=cpu")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["bounds"] == ["t <= 24"]
    with pytest.raises(ValueError):
        loaded(tmp_path / "out")(drawn(1, 25))


def test_a_fixed_size_is_the_only_one(runs, tmp_path, capsys):
    argv = ("export", runs("gated_linear"), f"--out={tmp_path / 'out'}", "--platforms=cpu", "--batch=2")
    assert "--length: gated_linear is compiled for one length; give it" in said(capsys, *argv, code=2)
    said(capsys, *argv, "--length=9")
    model, params = network(runs("gated_linear"))
    call, tokens = loaded(tmp_path / "out"), drawn(2, 9)
    np.testing.assert_allclose(call(tokens), jax.jit(model)(params, tokens), atol=1e-5)
    with pytest.raises(ValueError, match="shape"):
        call(drawn(3, 9))


def test_an_encoder_tells_every_token_and_pads_change_nothing(runs, tmp_path, capsys):
    said(capsys, "export", runs("encoder"), f"--out={tmp_path / 'out'}", "--platforms=cpu")
    model, params = network(runs("encoder"))
    call, tokens = loaded(tmp_path / "out"), drawn(2, 11)
    found = call(tokens, np.array([11, 6], np.int32))
    every = np.broadcast_to(np.arange(11), (2, 11))
    states, head, bias = jax.jit(model.masked)(params, tokens, every)
    np.testing.assert_allclose(found[0], (states @ head.T + bias)[0], atol=1e-5)
    tokens[1, 6:] = 0
    np.testing.assert_allclose(call(tokens, np.array([11, 6], np.int32))[1, :6], found[1, :6], atol=1e-5)
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["symbols"] == {"vocabulary": 29, "mask": 29, "question": 30}


def test_an_encoder_tells_the_class_of_a_text(tmp_path, capsys):
    rows = [{"said": f"{'ab' if i % 2 else 'yz'} {i}", "topic": ("ay"[i % 2])} for i in range(40)]
    (tmp_path / "topics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"paths": str(tmp_path / "topics.jsonl"), "text_key": "said", "target_key": "topic"}
    data = {
        "corpus": "files",
        "corpus_args": files,
        "seq_len": 8,
        "eval_fraction": 0.25,
        "cache_dir": str(tmp_path / "cache"),
    }
    run = made(tmp_path / "run", TEXT | {"model": RUNS["encoder"], "data": data})
    record = said(capsys, "export", run, f"--out={tmp_path / 'out'}", "--platforms=cpu")
    assert record["output"] == {"axes": ["batch", "classes"], "dtype": "float32", "shape": ["b", 2]}
    task = family_of("lm").build(load.config_of(run))
    batch = next(iter(task.eval_batches()))
    expected = jax.jit(task.model.score)(checkpoint.load_params(run), {}, batch)
    lengths = (batch["segments"] == 0).sum(axis=1).astype(np.int32)
    np.testing.assert_allclose(loaded(tmp_path / "out")(batch["tokens"], lengths), expected, atol=1e-5)


def test_an_encoder_decoder_reads_a_source(runs, tmp_path, capsys):
    said(capsys, "export", runs("encoder_decoder"), f"--out={tmp_path / 'out'}", "--platforms=cpu")
    model, params = network(runs("encoder_decoder"))
    source, target, lengths = drawn(2, 9), drawn(2, 5), np.array([9, 4], np.int32)
    seen = np.arange(9) < lengths[:, None]
    states, head = jax.jit(model.hidden)(params, source, target, seen)
    found = loaded(tmp_path / "out")(source, lengths, target)
    np.testing.assert_allclose(found, states @ head.T, atol=1e-5)


def test_images_go_in_as_they_are_stored(tmp_path, capsys):
    """With the running statistics of batch norm."""
    model = {"name": "resnet", "stages": (1,), "width": 4}
    data = {"dataset": "digits", "cache_dir": str(tmp_path / "cache")}
    run = made(
        tmp_path / "run", {"task": "vision", "batch_size": 8, "duration": {"steps": 1}, "model": model, "data": data}
    )
    record = said(capsys, "export", run, f"--out={tmp_path / 'out'}", "--platforms=cpu")
    assert record["classes"] == [str(i) for i in range(10)]
    config = load.config_of(run)
    task = family_of("vision").build(config)
    batch = next(iter(task.eval_batches()))
    images = batch["image"][:5]
    stats = checkpoint.load_part(run, "stats")
    expected = jax.jit(task.model.score)(checkpoint.load_params(run), stats, {"image": images})
    np.testing.assert_allclose(loaded(tmp_path / "out")(images), expected, atol=1e-5)
    refused = said(capsys, "export", run, f"--out={tmp_path / 'gpt2'}", "--format=gpt2", code=2)
    assert "needs a model that continues a text" in refused and not (tmp_path / "gpt2").exists()


def test_what_is_exported_is_what_the_model_computes_with(tmp_path, capsys):
    """Rounded weights, and parameters in bfloat16."""
    config = TEXT | {
        "model": LLAMA,
        "data": MARKOV,
        "quantize": {"weights": "int4", "activations": "int8"},
        "precision": {"params": "bfloat16"},
    }
    run = made(tmp_path / "run", config)
    said(capsys, "export", run, f"--out={tmp_path / 'out'}", "--platforms=cpu")
    full, (model, _) = load.config_of(run), network(run)
    variables = states.boxed(family_of("lm").build(full).model, step_spec.hyper(full, family_of("lm").build(full)))
    params = load.parameters(run, full, variables)
    tokens = drawn(2, 8)
    expected = jax.jit(clone(model, attention="xla"))(params, tokens)
    np.testing.assert_allclose(loaded(tmp_path / "out")(tokens), expected, atol=1e-5)
    refused = said(capsys, "export", run, f"--out={tmp_path / 'llama'}", "--format=llama", code=2)
    assert "quantize.activations" in refused


# Layouts of transformers, and back --------------------------------------------------------------------------------------


def config_file(folder: Path, data: dict) -> Path:
    path = folder / "text.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(arg=''):\n    return ConfigDict({ {'data': data, 'evaluation': {'tokens': 240}}!r})\n"
    )
    return path


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_out_and_back_in_is_the_same_bit_for_bit(runs, tmp_path, capsys, name):
    said(capsys, "export", runs(name), f"--out={tmp_path / 'theirs'}", f"--format={name}")
    text = config_file(tmp_path, MARKOV)
    back = said(capsys, "import", tmp_path / "theirs", f"--workdir={tmp_path / 'back'}", f"--config={text}")
    (ours, before), (again, after) = network(runs(name)), network(tmp_path / "back")
    assert ours == again
    assert jax.tree.structure(before) == jax.tree.structure(after)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert back["parent"].startswith("sha256:") and checkpoint.saved_steps(tmp_path / "back") == [0]
    imported = json.loads((tmp_path / "back" / "environment.json").read_text())["imported"]
    assert imported["layout"] == name and set(imported["sha256"]) == {"config.json", "model.safetensors"}
    # Other weights of the same shape make another run.
    weights = load_file(tmp_path / "theirs" / "model.safetensors")
    save_file({key: 2 * array for key, array in weights.items()}, tmp_path / "theirs" / "model.safetensors")
    other = said(capsys, "import", tmp_path / "theirs", f"--workdir={tmp_path / 'other'}", f"--config={text}")
    assert other["run_id"] != back["run_id"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_transformers_gives_the_same_logits(runs, tmp_path, capsys, name):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    said(capsys, "export", runs(name), f"--out={tmp_path / 'theirs'}", f"--format={name}")
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    tokens, (model, params) = drawn(3, 24), network(runs(name))
    with torch.no_grad():
        theirs = reference(torch.as_tensor(tokens, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(theirs, jax.jit(model)(params, tokens), atol=1e-4)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A tiny corpus of files."""
    folder = tmp_path_factory.mktemp("text")
    for name in range(40):
        (folder / f"{name}.txt").write_text("abcdefgh ijkl\n" * (20 + name))
    return {
        "corpus": "files", "corpus_args": {"paths": f"{folder}/*.txt"}, "seq_len": 24, "eval_fraction": 0.25,
        "cache_dir": str(folder / "cache"),
    }  # fmt: skip


@pytest.mark.parametrize("tokenizer", ["bytes", pytest.param("bpe:260", marks=pytest.mark.slow)])
def test_an_imported_run_is_evaluated_written_from_and_learnt_from(tmp_path, capsys, text, tokenizer):
    data = text | {"tokenizer": tokenizer}
    run = made(tmp_path / "run", TEXT | {"model": LLAMA, "data": data, "evaluation": {"tokens": 240}}, keep=True)
    said(capsys, "export", run, f"--out={tmp_path / 'theirs'}", "--format=llama")
    argv = ("import", tmp_path / "theirs", f"--config={config_file(tmp_path, text)}", f"--workdir={tmp_path / 'back'}")
    said(capsys, *argv)
    losses = [said(capsys, "evaluate", folder)["loss"] for folder in (run, tmp_path / "back")]
    assert losses[0] == losses[1]
    texts = [
        said(capsys, "generate", folder, "--prompt=abc", "--tokens=8", "--temperature=0")["samples"]
        for folder in (run, tmp_path / "back")
    ]
    assert texts[0] == texts[1]
    kept = load.config_of(tmp_path / "back")
    child = TEXT | {"model": LLAMA, "data": text | {"tokenizer": kept.data.tokenizer}}
    child |= {
        "duration": {"steps": 1},
        "evaluation": {"tokens": 240},
        "optimizer": {"learning_rate": 1e-12, "weight_decay": 0.0},
    }
    for section in ("init_from", "teacher"):
        path = tmp_path / f"{section}.py"
        path.write_text(
            "from ml_collections import ConfigDict\n"
            f"def get_config(arg=''):\n    return ConfigDict({child | {section: {'run': str(tmp_path / 'back')}}!r})\n"
        )
        assert cli.main(["train", f"--config={path}", f"--workdir={tmp_path / section}"]) == 0
        record = json.loads((tmp_path / section / "result.json").read_text())
        assert record["parent" if section == "init_from" else "teacher"] == f"{kept.derived.run_id}:0"
        if section == "init_from":
            assert record["loss"] == pytest.approx(losses[0], rel=1e-5)
    # What is there is no run to go on with.
    capsys.readouterr()
    trained = cli.main(["train", f"--config={config_file(tmp_path, text)}", f"--workdir={tmp_path / 'back'}"])
    assert trained == 2


def test_a_table_with_more_rows_than_symbols_comes_in(tmp_path, capsys, text):
    """As nanoGPT's 50,304 rows for 50,257 symbols."""
    data = text | {"tokenizer": "bytes", "vocab_size": 300}
    run = made(tmp_path / "run", TEXT | {"model": LLAMA, "data": data, "evaluation": {"tokens": 240}}, keep=True)
    said(capsys, "export", run, f"--out={tmp_path / 'theirs'}", "--format=llama")
    weights = load_file(tmp_path / "theirs" / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape[0] == 300
    argv = ("import", tmp_path / "theirs", f"--config={config_file(tmp_path, text)}", f"--workdir={tmp_path / 'back'}")
    said(capsys, *argv)
    assert load.config_of(tmp_path / "back").data.vocab_size == 300
    losses = [said(capsys, "evaluate", folder)["loss"] for folder in (run, tmp_path / "back")]
    assert losses[0] == losses[1]
    hot = said(capsys, "generate", tmp_path / "back", "--prompt=abc", "--tokens=60", "--temperature=1000")
    assert hot["samples"][0]["tokens"] == 60  # drawn almost evenly, and every one of them a symbol


def test_the_tokenizer_goes_along(tmp_path, capsys, text):
    transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")
    from lm import tokenizer as tokenizers

    for spec in ("bytes", "bpe:260"):
        folder = tmp_path / spec.replace(":", "")
        folder.mkdir()
        run = made(folder / "run", TEXT | {"model": GPT2, "data": text | {"tokenizer": spec}}, keep=True)
        said(capsys, "export", run, f"--out={folder / 'theirs'}", "--format=gpt2")
        ours = tokenizers.load(run / "tokenizer.json")
        theirs = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
        for sample in ("abc ijkl\n", "ä – 日本 \t", "  spaces"):
            assert theirs.encode(sample, add_special_tokens=False) == ours.encode_batch([sample])[0].tolist()
            assert theirs.decode(theirs.encode(sample)) == sample
        assert theirs.eos_token_id == ours.end and len(theirs) == ours.vocab_size


# Bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("llama", ["--out="], "--out: name the folder to make"),
        ("llama", ["--out=HERE"], "is there already"),
        ("llama", ["--out=NEW", "--format=lama"], "did you mean 'llama'"),
        ("llama", ["--out=NEW", "--step=7"], "no checkpoint of step 7"),
        ("llama", ["--out=NEW", "--platforms=cpu,abacus"], "--platforms: 'abacus' is not one of cpu"),
        ("llama", ["--out=NEW", "--batch=0"], "--batch: must be at least 1"),
        ("gpt2", ["--out=NEW", "--length=25"], "25 tokens are more than the 24 learned positions"),
        ("llama", ["--out=NEW", "--format=gpt2"], "GPT2LMHeadModel has no model.norm='rms', only 'layer'"),
        ("gpt2", ["--out=NEW", "--format=llama"], "LlamaForCausalLM has no model.norm='layer', only 'rms'"),
        ("sinusoidal", ["--out=NEW", "--format=llama"], "no model.positions='sinusoidal', only 'rotary'"),
        ("mixtral", ["--out=NEW", "--format=llama"], "model.name must be 'decoder'"),
        ("lstm", ["--out=NEW", "--format=llama"], "model.name must be 'decoder'"),
        ("gated_linear", ["--out=NEW", "--format=llama"], "model.positions='none'"),
        ("encoder", ["--out=NEW", "--format=gpt2"], "needs a model that continues a text"),
        ("gpt2", ["--out=NEW", "--format=gpt2", "--batch=1"], "--batch: of stablehlo alone"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(runs, tmp_path, capsys, name, argv, message):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").touch()
    words = [word.replace("HERE", str(tmp_path / "here")).replace("NEW", str(tmp_path / "new")) for word in argv]
    assert message in said(capsys, "export", runs(name), *words, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
