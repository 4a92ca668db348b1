"""`isoflop generate RUN`: text from a run's checkpoint."""

from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from isoflop.cli import Output
from training.errors import BadInput

EXAMPLE = """
isoflop generate runs/small --prompt "def " --tokens 200 --temperature 0.8 --top_k 40
isoflop generate runs/translation --prompt "Thou shalt not steal." --beams 4
"""


def define(flags: absl_flags.FlagValues) -> None:
    """Flags of the command."""
    absl_flags.DEFINE_multi_string(
        "prompt", [""], "Text to continue, or to translate; may be repeated.", flag_values=flags
    )
    absl_flags.DEFINE_integer("tokens", 200, "Tokens to add to each prompt.", flag_values=flags)
    absl_flags.DEFINE_float("temperature", 0.8, "0 takes the likeliest token every time.", flag_values=flags)
    absl_flags.DEFINE_integer("top_k", 0, "Draw among that many likeliest tokens; 0: all.", flag_values=flags)
    absl_flags.DEFINE_float("top_p", 1.0, "Draw among the likeliest tokens up to this probability.", flag_values=flags)
    absl_flags.DEFINE_integer("beams", 1, "Of an encoder-decoder: hypotheses; 1: greedy.", flag_values=flags)
    absl_flags.DEFINE_integer("seed", 0, "Seed of the draws.", flag_values=flags)
    absl_flags.DEFINE_integer("step", None, "Step of the checkpoint; the newest by default.", flag_values=flags)


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Load the checkpoint and continue every prompt; beyond its context a model sees the last `seq_len` tokens.

    An encoder-decoder reads the prompt and writes what follows from it, by beam search."""
    if len(args) != 1:
        raise BadInput("generate: name one run directory")
    folder = Path(args[0])
    model, params, tokenizer, window, role = _model(folder, flags.step)
    options: dict[str, Any] = flags.flag_values_dict()
    if any("\udc80" <= symbol <= "\udcff" for prompt in options["prompt"] for symbol in prompt):
        raise BadInput("--prompt: not UTF-8")
    if options["beams"] < 1 or (options["beams"] > 1 and role == "causal"):
        raise BadInput(f"--beams: want 1, or more of an encoder-decoder, got {options['beams']}")
    # An empty prompt starts a document: what ends one stands between it and the next.
    encoded = [list(map(int, tokens)) or [tokenizer.end] for tokens in tokenizer.encode_batch(options["prompt"])]
    written = (_continued if role == "causal" else _written)(params, model, encoded, tokenizer, window, options)
    texts = [
        {"prompt": prompt, "text": tokenizer.decode(row), "tokens": len(row)}
        for prompt, row in zip(options["prompt"], written, strict=True)
    ]
    between = "" if role == "causal" else "\n-> "
    shown = "\n---\n".join(t["prompt"] + between + t["text"] for t in texts)
    return Output({"run": str(folder), "samples": texts}, shown)


def _continued(
    params: Any, model: Any, encoded: list[list[int]], tokenizer: Any, window: int, options: dict[str, Any]
) -> list[Any]:
    """What a causal model writes after each prompt."""
    from lm.generate import generate
    from training import rng

    rows = generate(
        model,
        params,
        encoded,
        options["tokens"],
        key=rng.key(options["seed"], "generate"),
        temperature=options["temperature"],
        top_k=options["top_k"],
        top_p=options["top_p"],
        window=window,
        end=tokenizer.end,
        symbols=tokenizer.vocab_size,
    )
    return [row[len(start) :] for start, row in zip(encoded, rows, strict=True)]


def _written(
    params: Any, model: Any, encoded: list[list[int]], tokenizer: Any, window: int, options: dict[str, Any]
) -> list[Any]:
    """What an encoder-decoder writes for each prompt, up to and with the symbol that ends it."""
    import numpy as np

    from lm.translate import search

    if options["tokens"] < 1:
        raise BadInput(f"generate: the number of new tokens must be positive, got {options['tokens']}")
    end, lengths = tokenizer.end, np.array([len(row) for row in encoded], np.int32)
    if lengths.max() > window:
        raise BadInput(f"--prompt: {lengths.max()} tokens, where the model was trained on up to {window}")
    source = np.full((len(encoded), window), end, np.int32)
    for row, tokens in zip(source, encoded, strict=True):
        row[: len(tokens)] = tokens
    rows = np.asarray(search(model, params, source, lengths, min(options["tokens"], window), end, options["beams"]))
    return [row[: np.argmax(np.append(row, end) == end) + 1] for row in rows]


def _model(folder: Path, step: int | None) -> tuple[Any, Any, Any, int, str]:
    """The model of a run, its parameters, its tokenizer, its context length, and its role."""

    from lm import models, objectives
    from training import load
    from training.nets import initial

    config = load.config_of(folder)
    if config.task != "lm":
        raise BadInput(f"{folder}: generate needs a language model, this is a run of task {config.task!r}")
    role = models.KINDS[config.model.name].role
    if role == "encoder":
        raise BadInput(f"{folder}: generate needs a model that writes text, an {config.model.name} does not")
    tokenizer = _tokenizer(folder, config.data)
    model = objectives.of(config).network(config)
    variables = initial.abstract(model)
    return model, load.parameters(folder, config, variables, step), tokenizer, config.data.seq_len, role


def _tokenizer(folder: Path, data: Any) -> Any:
    """The tokenizer that a run was trained with."""
    from lm import tokenizer, tokens

    if data.corpus == "markov":
        raise BadInput("generate: the symbols of a synthetic language are no text")
    return tokenizer.load(folder / tokens.KEPT)
