"""`isoflop generate RUN`: text from a run's checkpoint."""

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput

SUMMARY = "text from a checkpoint"
EXAMPLE = 'isoflop generate runs/small --prompt "def " --tokens 200 --temperature 0.8 --top_k 40'


def define(flags: absl_flags.FlagValues) -> None:
    """Flags of the command."""
    absl_flags.DEFINE_multi_string("prompt", [""], "Text to continue; may be repeated.", flag_values=flags)
    absl_flags.DEFINE_integer("tokens", 200, "Tokens to add to each prompt.", flag_values=flags)
    absl_flags.DEFINE_float("temperature", 0.8, "0 takes the likeliest token every time.", flag_values=flags)
    absl_flags.DEFINE_integer("top_k", 0, "Draw among that many likeliest tokens; 0: all.", flag_values=flags)
    absl_flags.DEFINE_float("top_p", 1.0, "Draw among the likeliest tokens up to this probability.", flag_values=flags)
    absl_flags.DEFINE_integer("seed", 0, "Seed of the draws.", flag_values=flags)
    absl_flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Load the checkpoint and continue every prompt; beyond its context a model sees the last `seq_len` tokens."""
    if len(args) != 1:
        raise BadInput("generate: name one run directory")
    from lm.generate import generate
    from training import rng
    from training.checkpoint import load_params

    folder = Path(args[0])
    model, tokenizer, window = _model(folder)
    given: dict[str, Any] = flags.flag_values_dict()
    if any("\udc80" <= symbol <= "\udcff" for prompt in given["prompt"] for symbol in prompt):
        raise BadInput("--prompt: not UTF-8")
    # An empty prompt starts a document: what ends one stands between it and the next.
    encoded = [list(map(int, tokens)) or [tokenizer.end] for tokens in tokenizer.encode_batch(given["prompt"])]
    rows = generate(
        model,
        load_params(folder, given["step"]),
        encoded,
        given["tokens"],
        key=rng.key(given["seed"], "generate"),
        temperature=given["temperature"],
        top_k=given["top_k"],
        top_p=given["top_p"],
        window=window,
        end=tokenizer.end,
    )
    texts = [
        {"prompt": prompt, "text": tokenizer.decode(row[len(start) :]), "tokens": len(row) - len(start)}
        for prompt, start, row in zip(given["prompt"], encoded, rows, strict=True)
    ]
    return Output({"run": str(folder), "samples": texts}, "\n---\n".join(t["prompt"] + t["text"] for t in texts))


def _model(folder: Path) -> tuple[Any, Any, int]:
    """The model of a run, its tokenizer, and its context length."""
    from ml_collections import ConfigDict

    from lm import models, objectives
    from training.files import read_object

    config = ConfigDict(read_object(folder / "config.json", "task"))
    if config.get("task") != "lm":
        raise BadInput(f"{folder}: generate needs a language model, this is a run of task {config.get('task')!r}")
    if models.KINDS[config.model.name].role != "causal":
        raise BadInput(f"{folder}: generate needs a model that continues text, this is of model {config.model.name!r}")
    tokenizer = _tokenizer(config.data)
    result = folder / "result.json"
    trained_with = read_object(result).get("tokenizer_hash") if result.is_file() else None
    if trained_with not in (None, tokenizer.hash):
        raise BadInput(f"{folder}: trained with another {config.data.tokenizer} tokenizer than the one found here")
    return objectives.of(config).network(config), tokenizer, config.data.seq_len


def _tokenizer(data: Any) -> Any:
    """The tokenizer of a config's data section; one that is trained on the corpus is read from the prepared store."""
    from lm import tokenizer, tokens

    if data.corpus == "markov":
        raise BadInput("generate: the symbols of a synthetic language are no text")
    return tokenizer.ready(data.tokenizer) or tokens.prepare(data, show=False).tokenizer  # type: ignore[union-attr]
