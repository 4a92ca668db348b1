"""A config of every family of models and of every objective."""

import json
from pathlib import Path

from ml_collections import ConfigDict

import lm.models
import vision.models
from training import config as configs

LABELS = {"corpus": "files", "corpus_args": {"paths": "labels.jsonl", "text_key": "text", "target_key": "label"}}
PAIRS = {"corpus": "aligned", "corpus_args": {"paths": "source.txt", "target_paths": "target.txt"}}
DATA = {"tokenizer": "bytes", "seq_len": 32, "eval_fraction": 0.25, "cache_dir": "cache"}
MODELS = {"lm": lm.models.KINDS, "vision": vision.models.KINDS}


def every_run():
    """Name, task and sections `model` and `data` of each."""
    for name in lm.models.KINDS:
        own = {} if name in ("lstm", "gru", "rnn", "gated_linear") else {"heads": 2}
        yield f"lm {name}", "lm", {"name": name, "width": 16, "depth": 2} | own, DATA | {"corpus": "stdlib"}
    blocks = {"width": 16, "depth": 2, "heads": 2}
    yield "lm labels", "lm", {"name": "encoder"} | blocks, DATA | LABELS
    yield "lm pairs", "lm", {"name": "encoder_decoder"} | blocks, DATA | PAIRS
    yield "lm spans", "lm", {"name": "encoder_decoder", "sentinels": 8} | blocks, DATA | {"corpus": "stdlib"}
    yield "lm size", "lm", {"name": "decoder", "size": 1e5}, DATA | {"corpus": "stdlib"}
    for name in vision.models.KINDS:
        own = {"depth": 2} if name == "convnet" else {}
        yield f"vision {name}", "vision", {"name": name} | own, {"dataset": "digits"}
    yield "toy", "toy", {}, {}


def resolved(task, model, data, **changes):
    partial = {"task": task, "batch_size": 8, "model": model, "data": data, "duration": {"steps": 10}}
    return configs.resolve(configs.complete(ConfigDict(partial | changes)))


def write_texts():
    lines = [f"line {i} of a text" for i in range(400)]
    Path("labels.jsonl").write_text("\n".join(json.dumps({"text": x, "label": str(len(x) % 2)}) for x in lines))
    for name in ("source", "target"):
        Path(f"{name}.txt").write_text("\n".join(lines))
