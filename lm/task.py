"""Language modelling as a family: what the engine and the sweeps need of it, and nothing else."""

import math
from collections.abc import Mapping

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm import corpora, forward as forwards, models, objectives, rules as named_rules, tokens
from lm.objectives.stream import document_masking
from lm.store import TokenStore
from training import early_stopping, transfer
from training.cost import Cost
from training.errors import Absent, BadInput
from training.nets import stack
from training.task import Forward, Task
from training.types import Option, Record

# Keys that change how fast or where a run goes, never what it computes.
INDIFFERENT = (
    *("model.size", "model.scan", "model.remat", "model.attention", "model.dispatch"),
    *("model.pipeline_rounds", "model.pipeline_microbatches"),
    *("data.cache_dir", "data.corpus_args.data_dir", "data.shard_tokens", "evaluation.batch_size"),
)

INHERITED = ("tokenizer_hash",)
INPUTS: tuple[str, ...] = ()
RENAMED = models.RENAMED | {"data.segments": "data.document_masking"}
UNIT = "tokens"


def defaults() -> ConfigDict:
    """The sections `model`, `data` and `evaluation`."""
    return ConfigDict(
        {
            "model": models.defaults(),
            "data": tokens.defaults(),
            "evaluation": {
                "tokens": placeholder(int),  # of the fixed sample, spread over documents; None: the whole split
                "batch_size": 64,
            },
        }
    )


def model_options(name: str | None) -> Mapping[str, Option]:
    """The options of the named model with their defaults."""
    return {**models.KINDS[name].options, **models.MIXER_OPTIONS} if name in models.KINDS else {}


def shape_for(config: ConfigDict) -> dict[str, Option]:
    """The options of the named model: given, of the target size, or its defaults."""
    return models.options(config.model, tokens.vocab_size(config.data), config.data.seq_len)


def validate(config: ConfigDict) -> None:
    """Raise BadInput where the sections contradict each other."""
    if config.data.seq_len < 1:
        raise BadInput(f"data.seq_len: must be at least 1, got {config.data.seq_len}")
    if not 0 <= config.model.dropout < 1:
        raise BadInput(f"model.dropout: must be in [0, 1), got {config.model.dropout}")
    if not 0 <= config.model.init_scale < math.inf:
        raise BadInput(f"model.init_scale: must not be negative, got {config.model.init_scale}")
    if config.evaluation.batch_size < 1:
        raise BadInput(f"evaluation.batch_size: must be at least 1, got {config.evaluation.batch_size}")
    objective = objectives.of(config)
    if config.teacher.run and objective is not objectives.next_token:
        raise BadInput(f"teacher.run: {config.model.name} learns from no teacher; models that continue a text do")
    early_stopping.check(config.early_stopping.metric, objective.METRICS)
    objective.cost(config)
    for axis, needs in (("context", "whole sequences"), ("stage", "all of its layers")):
        if config.mesh[axis] != 1 and not _is_one_stack(config):
            raise BadInput(f"mesh.{axis}: {config.model.name} needs {needs}; mesh.{axis}=1")
    if config.mesh.context != 1:
        stack.check_context(objective.network(config).blocks)
    if config.mesh.stage != 1:
        if config.model.dropout:
            raise BadInput("mesh.stage: microbatches would be dropped alike (model.dropout); mesh.stage=1")
        stack.check_stages(objective.network(config).blocks, config.mesh.stage)
    transfer.check_names(config, objective.network(config))


def _is_one_stack(config: ConfigDict) -> bool:
    """Whether the model is a single stack of blocks."""
    is_pair = models.KINDS[config.model.name].role == "encoder_decoder"
    return not is_pair and hasattr(objectives.of(config).network(config), "blocks")


def scaled_hparams(config: ConfigDict, n: int, d: float) -> dict[str, float | int]:
    """Batch, learning rate and warmup by the named rule, for N parameters and D examples."""
    length, factor = config.data.seq_len, models.KINDS[config.model.name].lr_multiplier
    return named_rules.apply(config.hparam_scaling, n, d * length, length, config.batch_size, factor)


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs."""
    return objectives.of(config).cost(config)


def available(config: ConfigDict) -> int | None:
    """Examples in the training split, None for a synthetic language; prepares the corpus where it is not there."""
    return objectives.of(config).available(config)


def prepare(config: ConfigDict, verify: bool) -> Record:
    """Build the corpus's tokens ahead of time; returns what they hold."""
    text = tokens.prepare(config.data, verify=verify)
    splits = {name: text.split(name) for name in ("train", "eval")}
    return {
        "name": f"{config.data.corpus}, {config.data.tokenizer}",
        "path": str(text.path) if isinstance(text, TokenStore) else None,
        **{key: value for key, value in text.facts().items() if not key.endswith("_tokens")},
        "splits": {
            name: {"documents": split.num_documents, "tokens": split.num_tokens, "bytes": split.num_bytes}
            for name, split in splits.items()
        },
    }


def build(config: ConfigDict) -> Task:
    """The task of a resolved config; prepares its corpus where that has not been done."""
    return objectives.of(config).build(config)


def stand_in(config: ConfigDict) -> ConfigDict:
    """The config with a synthetic language in place of its text: as many rows of the embedding, documents as masked.

    Raises:
      Absent: it reads more than running text.
    """
    if corpora.paired(config.data.corpus, config.data.corpus_args):
        raise Absent(f"data.corpus: {config.data.corpus} is not on this machine, and no synthetic text has its labels")
    other = ConfigDict(config.copy_and_resolve_references())
    with other.unlocked():
        other.data.vocab_size = tokens.vocab_size(config.data)
        other.data.document_masking = document_masking(config.data)
        other.data.corpus, other.data.corpus_args = "markov", tokens.defaults().corpus_args
    return other.lock()


def forward(config: ConfigDict, batch: int | None, length: int | None) -> Forward:
    """The model of a resolved config as a function of arrays, for export; see `lm.forward`."""
    return forwards.forward(config, batch, length)
