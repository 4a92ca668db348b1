"""What language models are trained for, by the role of the model and the kind of corpus; each is a module of functions:

network(config)     the module of a resolved config
cost(config)        its parameters and FLOPs
available(config)   examples in the training split, None where they never end; prepares the corpus
build(config)       the task (see `training.task.Task`)

and METRICS, the names of what an evaluation says of the model.
"""

from typing import Any

from ml_collections import ConfigDict

from lm import corpora, models
from lm.objectives import labels, masked, next_token, pairs, prefix, spans
from training.errors import BadInput

# (role of the model, whether the corpus holds pairs) -> what is minimised.
OBJECTIVES: dict[tuple[str, bool], Any] = {
    ("causal", False): next_token,
    ("encoder", False): masked,
    ("encoder", True): labels,
    ("encoder_decoder", False): prefix,
    ("encoder_decoder", True): pairs,
}


def of(config: ConfigDict) -> Any:
    """The module of what a config's model is trained for on its corpus.

    Raises:
      BadInput: that model learns nothing from such a corpus.
    """
    paired = corpora.paired(config.data.corpus, config.data.corpus_args)
    found = OBJECTIVES.get((models.KINDS[config.model.name].role, paired))
    if found is None:
        kind = "pairs" if paired else "running text"
        raise BadInput(f"model.name: {config.model.name} does not learn from {kind}, as corpus {config.data.corpus} is")
    return spans if found is prefix and config.model.sentinels else found
