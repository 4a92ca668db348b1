"""What the compilers of TPUs and GPUs say of a step: small models of every family, on devices that are not there.

Slow: `make test-topologies` installs the compilers and runs this folder. Nothing here runs on a device.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMPILERS = ("v5e:4x4", "h100:8")
DECODER = {"model.name": "decoder", "model.heads": 2, "model.width": 256, "model.depth": 2}
LM = {
    "decoder": DECODER,
    "experts": {**DECODER, "model.name": "moe", "model.experts": 4},
    "linear": {"model.name": "gated_linear", "model.width": 256, "model.depth": 2},
    "lstm": {"model.name": "lstm", "model.width": 256, "model.depth": 1},
    "encoder": {**DECODER, "model.name": "encoder"},
    "encoder-decoder": {**DECODER, "model.name": "encoder_decoder"},
}
VISION = {
    "vit": {"model.name": "vit", "model.width": 256, "model.depth": 2, "model.heads": 2, "model.patch": 4},
    "resnet": {"model.name": "resnet", "model.variant": "20"},
}
SCRIPT = """
import dataclasses, json, sys
import jax
jax.config.update("jax_platforms", "cpu")
from ml_collections import ConfigDict
from sweeps import compiled_for
from training import config as configs, topology
config = configs.resolve(configs.complete(ConfigDict(json.loads(sys.argv[1]))))
print(json.dumps(dataclasses.asdict(compiled_for.report(config, topology.resolve(sys.argv[2])))))
"""


def need_compiler(name):
    """Skip a test where the compiler of a topology is not installed."""
    if importlib.util.find_spec("libtpu" if name.startswith("v") else "jax_plugins") is None:
        pytest.skip(f"the compiler of {name} is not installed (make test-topologies)")


def compiled(config, name):
    """The report of a config, by a process of its own: this one has devices."""
    need_compiler(name)
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    run = [sys.executable, "-c", SCRIPT, json.dumps(config), name]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "involuntary" not in done.stderr.lower(), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def nested(flat):
    tree = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inside = tree
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = value
    return tree


@pytest.mark.parametrize("topology", COMPILERS)
@pytest.mark.parametrize("family", [*LM, *VISION])
def test_every_family_compiles_and_is_split(family, topology):
    devices = 16 if topology == "v5e:4x4" else 8
    text = {"task": "lm", "data.corpus": "stdlib", "data.seq_len": 256, "data.vocab_size": 512}
    images = {"task": "vision", "data.dataset": "procedural"}
    shared = {
        "batch_size": 4 * devices,
        "duration.steps": 3,
        "mesh.data": 1,
        "mesh.fsdp": devices,
        "precision.compute": "bfloat16",
    }
    report = compiled(nested((text | LM[family] if family in LM else images | VISION[family]) | shared), topology)
    assert report["fits"] and report["left_whole"] == {}
    assert report["temporary_bytes"] > 0 and (report["cycles"] or topology != "v5e:4x4")
    kinds = {row["kind"] for row in report["collectives"]}
    assert kinds & {"all-gather", "all-reduce", "reduce-scatter"}
    if family == "decoder" and topology == "v5e:4x4":
        assert report["traffic"] > 0 and any("splash" in name for name in report["kernels"])


@pytest.mark.parametrize("topology", COMPILERS)
def test_activations_of_a_device_shrink_with_the_axis_context(topology):
    """The same four sequences over four devices, and over all: a share of the temporaries; keys and values are gathered."""
    ways, alone = (4, "v5e:2x2") if topology == "v5e:4x4" else (2, "h100:4")
    config = DECODER | {
        "task": "lm",
        "data.corpus": "markov",
        "data.seq_len": 16_384,
        "data.vocab_size": 512,
        "data.document_masking": True,
        "batch_size": 4,
        "duration.steps": 3,
        "mesh.data": 1,
        "mesh.fsdp": 4,
        "model.kv_heads": 1,
        "model.scan": True,
        "model.remat": "full",
        "precision.compute": "bfloat16",
    }
    whole, split = (compiled(nested(config | {"mesh.context": n}), name) for n, name in ((1, alone), (ways, topology)))
    assert split["left_whole"] == {} and split["temporary_bytes"] < 1.5 * whole["temporary_bytes"] / ways
    assert ["context"] in [row["axes"] for row in split["collectives"] if row["kind"] == "all-gather"]
    if topology == "v5e:4x4":
        assert any("splash" in name for name in split["kernels"])


@pytest.mark.parametrize("attention", ["cudnn", "xla"])
def test_fewer_key_heads_than_the_axis_of_heads_compile_on_gpus(attention):
    config = DECODER | {
        "task": "lm",
        "data.corpus": "markov",
        "data.seq_len": 256,
        "data.vocab_size": 512,
        "data.document_masking": True,
        "batch_size": 16,
        "duration.steps": 3,
        "mesh.data": 2,
        "mesh.tensor": 4,
        "model.heads": 4,
        "model.kv_heads": 2,
        "model.attention": attention,
        "precision.compute": "bfloat16",
    }
    report = compiled(nested(config), "h100:8")
    assert report["fits"] and report["left_whole"] == {}


@pytest.mark.parametrize("topology", COMPILERS)
def test_stages_hold_their_share_of_the_blocks(topology):
    """Half of the parameters of eight blocks on each of two stages, and a stream that is handed on."""
    devices = 16 if topology == "v5e:4x4" else 8
    config = DECODER | {
        "task": "lm",
        "data.corpus": "markov",
        "data.seq_len": 512,
        "data.vocab_size": 512,
        "batch_size": 4 * devices,
        "duration.steps": 3,
        "model.depth": 8,
        "model.scan": True,
        "model.remat": "full",
        "precision.compute": "bfloat16",
    }
    whole = compiled(nested(config | {"mesh.data": devices}), topology)
    staged = compiled(
        nested(config | {"mesh.data": devices // 2, "mesh.stage": 2, "model.pipeline_rounds": 2}), topology
    )
    assert staged["argument_bytes"] < 0.6 * whole["argument_bytes"] and staged["left_whole"] == {}
    assert staged["bubble"] == pytest.approx(1 / (8 * 2 + 1)) and whole["bubble"] is None
    assert ["stage"] in [row["axes"] for row in staged["collectives"] if row["kind"] == "collective-permute"]
    if topology == "v5e:4x4":
        assert any("splash" in name for name in staged["kernels"])


@pytest.mark.parametrize("topology", COMPILERS)
def test_tokens_travel_to_experts_that_are_split(topology):
    """Without a capacity too: they are gathered along the axis of experts, and what is made of them is scattered back."""
    config = LM["experts"] | {
        "task": "lm",
        "data.corpus": "markov",
        "data.seq_len": 256,
        "data.vocab_size": 512,
        "batch_size": 16,
        "duration.steps": 3,
        "mesh.data": 1,
        "mesh.fsdp": 4 if topology == "v5e:4x4" else 2,
        "mesh.expert": 4,
        "precision.compute": "bfloat16",
    }
    report = compiled(nested(config), topology)
    assert report["fits"] and report["left_whole"] == {}
    along = {row["kind"] for row in report["collectives"] if row["axes"] == ["expert"]}
    assert {"all-gather", "reduce-scatter"} <= along


@pytest.mark.parametrize("name, topology", [("60m-v5e", "v5e:4x4"), ("160m-v5e", "v5e:4x4"), ("400m-h100", "h100:8")])
def test_the_ladder_is_planned(name, topology):
    """The smaller configs as they are written; larger ones are cases of `benchmarks.topologies`."""
    need_compiler(topology)
    plan = [sys.executable, "-m", "isoflop", "plan", f"--config=configs/lm/ladder.py:{name}", f"--topology={topology}"]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run([*plan, "--json"], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(done.stdout)["shapes"]
    assert row["fits"] and row["left_whole"] == {} and row["params"] > 5e7
    assert row["traffic"] is None or row["traffic"] < 1.2  # None: nothing is split
    assert row["hours"] is None if topology == "h100:8" else row["hours"] > 0
