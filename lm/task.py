"""Language modelling as a family: what the engine and the sweeps need of it, and nothing else."""

import math
from collections.abc import Mapping

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lm import corpora, forward as forwards, mixture, models, objectives, recipes, tokens
from lm.objectives.stream import document_masking
from lm.store import TokenStore
from training import early_stopping, optimizer, parametrization, transfer
from training.cost import Cost
from training.errors import Absent, BadInput
from training.nets import stack
from training.task import Forward, Hyperparameters, Task
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
PARAMETRIZED = ("decoder", "moe")  # models, and sequence mixers, whose roles `training.parametrization` knows
MIXERS = ("attention", "local_attention")


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
    _check_recipe(config)
    objective = objectives.of(config)
    mixture.domains_of(config.data)
    if config.data.mixture and objective is not objectives.next_token:
        raise BadInput(f"data.mixture: {config.model.name} reads one corpus; models that continue a text read mixtures")
    if config.data.mixture and config.model.get("stateful"):
        raise BadInput("model.stateful: the rows of a mixture do not continue one another")
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


def _check_recipe(config: ConfigDict) -> None:
    """Raise BadInput where the section `recipe` names none, or its parametrization knows no such model."""
    name, model = config.recipe.name, config.model
    recipes.reference_of(name, config.recipe.reference)
    if name not in parametrization.TABLE:
        return
    if model.name not in PARAMETRIZED:
        raise BadInput(f"recipe.name: {name} knows no {model.name} (known: {', '.join(PARAMETRIZED)})")
    for mixer in model.pattern:
        if mixer not in MIXERS:
            raise BadInput(f"recipe.name: {name} knows no {mixer} of model.pattern (known: {', '.join(MIXERS)})")


def scaled_hparams(config: ConfigDict, n: int, d: float) -> Hyperparameters:
    """What the named recipe says, for N parameters and D examples."""
    name, length, own = config.recipe.name, config.data.seq_len, models.KINDS[config.model.name]
    found = cost(config)
    target = recipes.Target(
        n=n,
        d=d * length,
        seq_len=length,
        batch_size=config.batch_size,
        factor=own.lr_multiplier,
        non_embedding=n - (found.params_total - found.params_non_embedding),
        depth=config.model.get("depth") or 0,
        width=config.model.get("width") or 0,
        options=optimizer.options(config.optimizer) | {"weight_decay": optimizer.weight_decay(config.optimizer)},
    )
    given = config.optimizer.learning_rate, config.recipe.reference.learning_rate
    if name in parametrization.TABLE and given == (None, None):
        target = target._replace(n_reference=_at_reference(config))
    return recipes.apply(name, target, config.recipe.reference)


def _at_reference(config: ConfigDict) -> int:
    """Parameters that a token goes through of the reference model: as wide and deep as the recipe's, in all else the same.

    Raises:
      BadInput: there is no such model.
    """
    reference, model = recipes.reference_of(config.recipe.name, config.recipe.reference), config.model
    width = int(reference["width"] or 0)
    heads, rest = divmod(width, int(reference["head_width"] or model.width // model.heads))
    if rest or heads * model.kv_heads % model.heads:
        raise BadInput(
            f"recipe.reference.width: {width} features are no heads as the model's; or give optimizer.learning_rate"
        )
    other = ConfigDict(config.copy_and_resolve_references())
    with other.unlocked():
        other.recipe.name = "default"
        other.model.width, other.model.heads = width, heads
        other.model.kv_heads = heads * model.kv_heads // model.heads
        other.model.mlp_width = reference["mlp_width"] or round(model.mlp_width * width / model.width)
        other.model.depth = reference.get("depth", model.depth)
    return cost(other).active


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
        "name": f"{'+'.join(each[0] for each in config.data.mixture) or config.data.corpus}, {config.data.tokenizer}",
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
        other.data.mixture = ()
    return other.lock()


def forward(config: ConfigDict, batch: int | None, length: int | None) -> Forward:
    """The model of a resolved config as a function of arrays, for export; see `lm.forward`."""
    return forwards.forward(config, batch, length)
