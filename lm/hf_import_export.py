"""Folders in a layout of `transformers`: one made of a run, and a run made of one.

A folder holds `config.json`, `model.safetensors` (or several, with an index) and `tokenizer.json`; pickles are never read.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lm import hf_layouts, models, objectives, tokenizer as tokenizers, tokens
from lm.decoder import Decoder
from training import (
    cache,
    checkpoint,
    config as configs,
    environment as environments,
    extras,
    identity,
    load,
    mesh as meshes,
)
from training.errors import BadInput
from training.files import read_object, write_json
from training.nets import initial
from training.nets.block_config import field
from training.state import State
from training.types import Params

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


class Published(NamedTuple):
    """What a folder holds.

    Attributes:
      layout: a name in `hf_layouts.LAYOUTS`.
      model: what it is here.
      length: the longest text it is meant for.
      params: its parameters, float32.
      files: the SHA-256 of what was read, by name.
    """

    layout: str
    model: Decoder
    length: int
    params: Any
    files: dict[str, str]


# A run goes out ---------------------------------------------------------------------------------------------------------


def export(run: Path, config: ConfigDict, step: int, layout: str, folder: Path) -> dict[str, Any]:
    """Write the model of a run into a folder that `transformers` loads; returns what is to be said of it.

    Args:
      run: a run directory.
      config: of the run.
      step: of its checkpoint.
      layout: a name in `hf_layouts.LAYOUTS`.
      folder: an empty one.

    Raises:
      BadInput: the layout cannot say what the model is.
    """
    if config.task != "lm" or models.KINDS[config.model.name].role != "causal":
        raise BadInput(f"--format={layout}: needs a model that continues a text, and {run} has {config.model.name!r}")
    if config.quantize.activations:
        raise BadInput(f"--format={layout}: no layout rounds activations, as quantize.activations does")
    model: Any = objectives.of(config).network(config)
    theirs = hf_layouts.written(layout, model, config.data.seq_len)
    variables = initial.abstract(model)
    params = load.parameters(run, config, variables, step)
    kept = run / tokens.KEPT
    if kept.is_file():
        theirs |= _write_tokenizer(tokenizers.load(kept), config.data.seq_len, folder)
    write(folder, layout, model, params, theirs)
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {
        "run_id": config.derived.run_id,
        "step": step,
        "format": layout,
        "architecture": hf_layouts.LAYOUTS[layout].architecture,
        "parameters": total,
        "sha256": {name: cache.sha256(folder / name) for name in (CONFIG, WEIGHTS)},
    }


def write(folder: Path, layout: str, model: Decoder, params: Params, config: dict[str, Any]) -> None:
    """Write weights and config."""
    extras.require("weights", "safetensors")
    from safetensors.numpy import save_file

    save_file(hf_layouts.to_theirs(layout, model, params), folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / CONFIG, config)


def _write_tokenizer(tokenizer: tokenizers.Tokenizer, length: int, folder: Path) -> dict[str, int]:
    """Write a tokenizer; returns the keys of the model's config that name its end."""
    definition, end = tokenizers.published(tokenizer)
    write_json(folder / TOKENIZER, definition)
    loaded = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end}
    write_json(folder / TOKENIZER_CONFIG, loaded | {"model_max_length": length, "clean_up_tokenization_spaces": False})
    return {"bos_token_id": tokenizer.end, "eos_token_id": tokenizer.end}


# A folder comes in ------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Published:
    """The model in a folder.

    Raises:
      BadInput: files are missing or damaged, the weights are a pickle, or the model cannot be said here.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: no folder")
    where = folder / CONFIG
    layout, model, length = hf_layouts.understood(read_object(where, "model_type"), str(where))
    names, arrays = _weights(folder), {}
    for name in names:
        arrays |= _arrays(folder / name)
    params = hf_layouts.to_ours(layout, model, arrays, str(folder / names[0]))
    files = {name: cache.sha256(folder / name) for name in (CONFIG, *names)}
    return Published(layout, model, length, params, files)


def _weights(folder: Path) -> list[str]:
    """The names of the files that hold the weights."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(read_object(folder / INDEX, "weight_map")["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise BadInput(f"{folder / INDEX}: names a file elsewhere")
        return names
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise BadInput(f"{folder / pickles[0]}: a pickle, which can run any code when it is read; want {WEIGHTS}")
    raise BadInput(f"{folder}: no {WEIGHTS}")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    extras.require("weights", "safetensors")
    from safetensors import SafetensorError
    from safetensors.flax import load_file  # that for NumPy knows no bfloat16

    try:
        return {name: np.asarray(array) for name, array in load_file(path).items()}
    except FileNotFoundError:
        raise BadInput(f"no file {path}") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: damaged, not readable as safetensors ({error})") from None


def adopt(
    source: Path, target: Path, folder: Path, config: ConfigDict, tokenizer: str | None, length: int | None
) -> ConfigDict:
    """Write a run directory whose checkpoint, of step 0, is a folder's model; returns its config.

    Args:
      source: a folder in a layout of `transformers`.
      target: where the run directory will lie.
      folder: where it is written.
      config: complete; what it says of the model, its text's length and tokenizer and the duration is replaced.
      tokenizer: as `config.data.tokenizer`; None: the folder's own.
      length: of the run's texts; None: the longest that the model is meant for.

    Raises:
      BadInput: the folder's model or tokenizer cannot be said here, or they do not fit each other.
    """
    found = read(source)
    if length is not None:
        found = _shortened(found, length)
    config = ConfigDict(config.copy_and_resolve_references())
    with config.unlocked():
        _describe(config, found)
        own = _tokenizer(source, tokenizer, config.data)
        if own is not None:
            own.save(folder / tokens.KEPT)
            config.data.tokenizer = str(folder / tokens.KEPT) if tokenizer is None else tokenizer
        config.data.vocab_size = None
        symbols = tokens.vocab_size(config.data)
        if symbols > found.model.vocab_size:
            raise BadInput(
                f"{source / CONFIG}: vocab_size is {found.model.vocab_size}, and the tokenizer has {symbols}"
            )
        if symbols < found.model.vocab_size:  # rows that fill up the table, as nanoGPT's 50,304 for 50,257 symbols
            config.data.vocab_size = found.model.vocab_size
        config = configs.resolve(config)
    with config.unlocked():
        if own is not None and tokenizer is None:
            same = isinstance(own, tokenizers.Bytes)
            config.data.tokenizer = "bytes" if same else str(target.absolute() / tokens.KEPT)
        # Nothing was trained here; and what it came from makes the run what it is, as a parent does.
        config.derived.update({"steps": 0, "warmup_steps": 0, "examples": 0, "tokens": 0, "flops": 0.0})
        config.derived.parent = f"sha256:{cache.digest(found.files)}"
        config.derived.run_id = identity.run_id(config)
    _write_run(folder, config, found, own)
    return config


def _shortened(found: Published, length: int) -> Published:
    """The same for shorter texts, as positions that are not learned allow."""
    if not 1 <= length <= found.length:
        raise BadInput(f"--length: must be from 1 to the model's {found.length}, got {length}")
    if length < found.length and found.model.max_length:
        raise BadInput(f"--length: the model has {found.length} learned positions, so its texts have that length")
    return found._replace(length=length)


def _describe(config: ConfigDict, found: Published) -> None:
    """What a run's config says of a model that was found."""
    kind = hf_layouts.LAYOUTS[found.layout].kind
    fields = {key: field(found.model, key, value) for key, value in models.KINDS[kind].options.items()}
    config.model = models.defaults()
    config.model.update({"name": kind, **fields})
    config.data.seq_len = found.length
    plain = configs.defaults()
    config.init_from, config.teacher, config.duration = plain.init_from, plain.teacher, plain.duration
    config.recipe = plain.recipe
    config.duration.steps, config.batch_size = 1, config.batch_size or 1


def _tokenizer(source: Path, spec: str | None, data: ConfigDict) -> tokenizers.Tokenizer | None:
    """The tokenizer of a folder, or the one that is named instead; None for a synthetic language."""
    if data.corpus == "markov":
        return None
    if spec is not None:
        named = tokenizers.ready(spec)
        if named is None:
            raise BadInput(f"--tokenizer: {spec} is trained on a corpus, and the model was not trained with it")
        return named
    if not (source / TOKENIZER).is_file():
        raise BadInput(f"{source}: no {TOKENIZER}; --tokenizer names another")
    found = tokenizers.load(source / TOKENIZER)
    ours = tokenizers.Bytes()
    same = isinstance(found, tokenizers.Subwords) and found.definition == tokenizers.published(ours)[0]
    return ours if same else found


def _write_run(folder: Path, config: ConfigDict, found: Published, tokenizer: tokenizers.Tokenizer | None) -> None:
    write_json(folder / "config.json", json.loads(config.to_json_best_effort()))
    text = tokens.prepare(config.data).facts()["tokenizer_hash"] if tokenizer is None else tokenizer.hash
    facts = {"tokenizer_hash": text, "vocab_size": found.model.vocab_size, "seq_len": found.length}
    imported = {"layout": found.layout, "sha256": found.files}
    environment = environments.of(config, meshes.build({"data": 1}), **facts, imported=imported)
    write_json(folder / "environment.json", environment)
    saved = checkpoint.Checkpoints(folder)
    dtype = config.precision.params
    params = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, dtype), found.params)
    saved.save(0, State(step=jax.numpy.zeros((), jax.numpy.int32), params=params, stats={}, moments=(), ema=None))
    saved.close()
