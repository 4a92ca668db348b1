"""Teachers: models of other runs, whose predictions a model learns (Hinton et al. 2015, arXiv 1503.02531)."""

from pathlib import Path

from ml_collections import ConfigDict

from lm import models, tokens
from training import load, parametrization
from training.errors import BadInput
from training.files import read_object
from training.types import Record


def config_of(config: ConfigDict) -> ConfigDict:
    """The config of the run that `teacher.run` names."""
    return load.config_of(Path(config.teacher.run))


def network(config: ConfigDict) -> models.Causal:
    """The teacher of a resolved config, in its precision of computing.

    Raises:
      BadInput: it is no model that continues a text, has another vocabulary, or reads shorter texts.
    """
    run, theirs = config.teacher.run, config_of(config)
    if theirs.task != config.task or models.KINDS[theirs.model.name].role != "causal":
        raise BadInput(f"teacher.run: {run} is no run of a model that continues a text")
    symbols = tokens.vocab_size(theirs.data), tokens.vocab_size(config.data)
    if symbols[0] != symbols[1]:  # the symbols themselves are compared once the corpus is there
        raise BadInput(f"teacher.run: {run} has a vocabulary of {symbols[0]} symbols, and this run of {symbols[1]}")
    if theirs.model.get("positions") == "learned" and theirs.data.seq_len < config.data.seq_len:
        raise BadInput(f"teacher.run: {run} reads {theirs.data.seq_len} tokens, and this run {config.data.seq_len}")
    precision = ConfigDict({**config.precision.to_dict(), "params": theirs.precision.params})
    multipliers = parametrization.forward(parametrization.of(theirs))
    return models.build(theirs.model, precision, symbols[0], theirs.data.seq_len, **multipliers)  # type: ignore[return-value]


def facts(config: ConfigDict) -> Record:
    """Record entries: the teacher's parameters and training tokens, and its loss where its run has ended."""
    run = Path(config.teacher.run)
    found = read_object(run / "result.json") if (run / "result.json").is_file() else {}
    derived = config_of(config).derived
    return {
        "teacher_params": derived.params_total,
        "teacher_tokens": found.get("tokens"),
        "teacher_loss": found.get("loss"),
    }
