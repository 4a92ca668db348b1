"""Image classification as a family: what the engine and the sweeps need of it, and nothing else."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from training import classification, early_stopping, transfer
from training.cost import Cost
from training.errors import Absent, BadInput
from training.nets import initial
from training.task import Arrays, Forward, Hyperparameters, Input
from training.types import Batch, Collections, HostScalars, Loss, Option, Params, Record, Scalars, Variables
from vision import augment, datasets, figures, models, probe, recipes
from vision.augment import Augment
from vision.layers import Classifier

# Keys that change how fast or where a run goes, never what it computes.
INDIFFERENT = (
    *("model.size", "model.variant", "model.scan", "model.remat", "model.attention"),
    *("data.cache_dir", "data.dataset_args.data_dir", "evaluation.batch_size"),
)
INHERITED: tuple[str, ...] = ()
INPUTS = ("data.fold", "data.folds", "data.limit", "data.validation", "data.seed", "evaluation.split")
RENAMED: dict[str, str] = {}
UNIT = "images"
SPLITS = ("test", "validation")
SHOWN = 8  # images in a figure of attention


def defaults() -> ConfigDict:
    """The sections `model`, `data` and `evaluation`."""
    data = datasets.defaults()
    data.augment = augment.defaults()
    # What a run reports. During a run, the validation images are evaluated: nothing is chosen by the test images.
    return ConfigDict({"model": models.defaults(), "data": data, "evaluation": {"split": "test", "batch_size": 256}})


def model_options(name: str | None) -> Mapping[str, Option]:
    """The options of the named model with their defaults."""
    return dict(models.KINDS[name].options) if name in models.KINDS else {}


def shape_for(config: ConfigDict) -> dict[str, Option]:
    """The options of the named model: given, of its variant, of the target size, or its defaults."""
    return models.options(config.model, *datasets.head(config.data))


def validate(config: ConfigDict) -> None:
    """Raise BadInput where the sections contradict each other."""
    for key in (*models.DROPS, "label_smoothing"):
        if not 0 <= config.model[key] < 1:
            raise BadInput(f"model.{key}: must be in [0, 1), got {config.model[key]}")
    if not 0 <= config.model.init_scale < math.inf:
        raise BadInput(f"model.init_scale: must not be negative, got {config.model.init_scale}")
    evaluated = config.evaluation
    if evaluated.split not in SPLITS:
        raise BadInput(f"evaluation.split: {evaluated.split!r} is not one of {', '.join(SPLITS)}")
    if evaluated.batch_size < 1:
        raise BadInput(f"evaluation.batch_size: must be at least 1, got {evaluated.batch_size}")
    if config.early_stopping.patience and evaluated.split == "validation":
        fold = f" of fold {config.data.fold}" if config.data.folds else ""
        raise BadInput(
            f"early_stopping.patience: chooses by the validation images{fold}, so they cannot be reported (evaluation.split)"
        )
    if config.mesh.context != 1:
        raise BadInput("mesh.context: splits sequences of text; models of images want mesh.context=1")
    if config.mesh.stage != 1:
        raise BadInput("mesh.stage: splits models of text; models of images want mesh.stage=1")
    for key, value in config.recipe.reference.items():
        if value is not None:
            raise BadInput(f"recipe.reference.{key}: recipes of images have no reference")
    if config.teacher.run:
        raise BadInput("teacher.run: models of images learn from no teacher")
    early_stopping.check(config.early_stopping.metric, classification.METRICS)
    built: Any = classifier(config)
    augment.check(augment.from_config(config.data.augment), *built.image[:2])
    transfer.check_names(config, built)


def scaled_hparams(config: ConfigDict, n: int, d: float) -> Hyperparameters:
    """Batch, learning rate and warmup by the named recipe, for N parameters and D images."""
    return recipes.apply(config.recipe.name, n, d, config.optimizer.name, config.batch_size)


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs."""
    return models.cost(config.model.name, classifier(config))


def available(config: ConfigDict) -> int | None:
    """Training images, None where they never end; prepares the dataset where it is not there."""
    return datasets.load(config.data).split("train").size


def prepare(config: ConfigDict, verify: bool) -> Record:
    """Prepare the dataset ahead of time; returns what it holds."""
    return datasets.prepare(config.data, verify)


def build(config: ConfigDict) -> "VisionTask":
    """The task of a resolved config; prepares its dataset where that has not been done."""
    return VisionTask(config)


def stand_in(config: ConfigDict) -> ConfigDict:
    """Nothing stands in for images that are not there.

    Raises:
      Absent: always.
    """
    raise Absent(f"data.dataset: {config.data.dataset} is not on this machine")


def classifier(config: ConfigDict) -> Classifier:
    """The model of a resolved config."""
    return models.build(config.model, config.precision, *datasets.head(config.data))


def forward(config: ConfigDict, batch: int | None, length: int | None) -> Forward:
    """The model of a resolved config as a function of images as they are stored (uint8), which it normalises itself.

    Args:
      config: of the run; its dataset, whose mean and deviation are part of the program, is prepared where it is not there.
      batch: images; None: any number.
      length: None, for images have none.

    Raises:
      BadInput: a length was given.
    """
    if length is not None:
        raise BadInput("--length: images have none")
    found: Any = classifier(config)
    found = found.clone(attention="xla") if hasattr(found, "attention") else found
    data = datasets.load(config.data)
    model = ImageModel(found, data.mean, data.std, augment.from_config(config.data.augment))

    def apply(params: Params, stats: Collections, images: jax.Array) -> jax.Array:
        return model.score(params, stats, {"image": images})

    variables = initial.abstract(found)
    image = Input("images", "uint8", ("b" if batch is None else batch, *found.image))
    return Forward(apply, (image,), ("batch", "classes"), variables, facts={"classes": list(data.classes)})


@dataclasses.dataclass(frozen=True)
class ImageModel:
    """The compiled part: images as they are stored (uint8) and their labels, to logits.

    Attributes:
      classifier: the model.
      mean, std: of the pixels by channel, in units where white is 1.
      augment: what is done to the images in training.
    """

    classifier: Classifier
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment

    def init(self, key: jax.Array, hyper: HostScalars) -> Variables:
        """Boxed variables; `hyper["init_scale"]` multiplies every initial standard deviation."""
        return initial.variables(self.classifier, key, hyper["init_scale"])

    def loss(self, params: Params, stats: Collections, batch: Batch, key: jax.Array, hyper: Scalars) -> Loss:
        """Cross-entropy in nats with the targets as augmentation and smoothing leave them, summed over images, and
        how many of the batch were right; see `training.task.Model.loss`."""
        images = batch["image"].astype(jnp.float32) / 255
        targets = jax.nn.one_hot(batch["label"], self.classifier.classes)  # type: ignore[attr-defined]
        drawn, dropped = jax.random.split(key)
        images, targets = augment.apply(self.augment, drawn, images, targets)
        targets = augment.smooth(targets, hyper["label_smoothing"])
        rates = {name: hyper[name] for name in models.DROPS}
        variables = {"params": params, **stats}
        logits, stats = self.classifier.classify(variables, self.normalised(images), dropped, rates, True)
        logits = logits.astype(jnp.float32)
        total = -jnp.sum(targets * jax.nn.log_softmax(logits))
        right = jnp.sum(jnp.argmax(logits, axis=1) == jnp.argmax(targets, axis=1))
        sums = {"loss": total, "accuracy": right.astype(jnp.float32), "weight": jnp.float32(len(images))}
        return total, (sums, stats)

    def score(self, params: Params, stats: Collections, batch: Batch) -> jax.Array:
        """Logits [batch, classes], with running statistics and nothing dropped."""
        images = self.normalised(batch["image"].astype(jnp.float32) / 255)
        return self.classifier({"params": params, **stats}, images).astype(jnp.float32)  # type: ignore[union-attr]

    def normalised(self, images: jax.Array) -> jax.Array:
        """Pixels in [0, 1] as the model wants them: of mean 0 and deviation 1 over the dataset, by channel."""
        return (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)


class VisionTask:
    """One resolved run on images."""

    def __init__(self, config: ConfigDict):
        self._config = config
        self._data = datasets.load(config.data)
        self._train, self._final = self._data.split("train"), self._data.split(config.evaluation.split)
        if config.log.evaluate_every or config.checkpoint.keep_best:
            self._data.split("validation")
        spec = augment.from_config(config.data.augment)
        self.model = ImageModel(classifier(config), self._data.mean, self._data.std, spec)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        names = (*models.DROPS, "label_smoothing", "init_scale")
        return {name: float(self._config.model[name]) for name in names}

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k of the training images."""
        config = self._config
        # The seed of the data cuts the dataset; the run's seed draws the order of batches too, so that runs which
        # differ in it alone measure the noise of everything random in a run.
        return self._train.batch((config.seed << 32) + config.data.seed, k, config.batch_size, rows)

    def eval_batches(self, final: bool = True) -> Iterator[Arrays]:
        """The images of `evaluation.split`, or of the validation split, in order; the last batch is filled up."""
        split, size = self._split(final), self._config.evaluation.batch_size
        for start in range(0, split.count, size):
            index = np.arange(start, start + size)
            images, labels = split.read(np.where(index < split.count, index, 0))
            yield {"image": images, "label": labels}

    def summarize(self, outputs: Iterable[np.ndarray], final: bool = True) -> dict[str, float | int | str | None]:
        """Record entries of an evaluation, as in `classification.summary`."""
        split = self._split(final)
        return {
            **classification.summary(*self._scored(outputs, final)),
            "eval_set": split.name,
            "eval_examples": split.count,
        }

    def details(self, outputs: Iterable[np.ndarray], final: bool = True) -> tuple[Record, dict[str, np.ndarray]]:
        """All that is said of an evaluation, and its predictions as columns with a row an image."""
        logits, labels = self._scored(outputs, final)
        chances = np.exp(classification.log_probabilities(logits))
        columns = {"index": np.arange(len(labels)), "label": labels, "prediction": chances.argmax(axis=1)}
        columns |= {f"p_{name}": chances[:, i] for i, name in enumerate(self._data.classes)}
        return {
            "eval_set": self._split(final).name,
            **classification.details(logits, labels, self._data.classes),
        }, columns

    def probe(self, params: Params, stats: Collections, shots: int) -> dict[str, float]:
        """Accuracy on the reported set of a linear classifier on frozen features, from so many training images a class."""

        @jax.jit
        def features(images: jax.Array) -> jax.Array:
            pixels = self.model.normalised(images.astype(jnp.float32) / 255)
            found: Any = self.model.classifier.features({"params": params, **stats}, pixels)
            return found[0]

        classes = len(self._data.classes)
        return {f"probe_{shots}_shot": probe.few_shot(features, self._train, self._final, classes, shots)}  # type: ignore[arg-type]

    def figures(self, params: Params, stats: Collections, outputs: Iterable[np.ndarray]) -> dict[str, Any]:
        """Confusions, and where the model has them, first-layer filters and attention on some of the images."""
        logits, labels = self._scored(outputs, final=True)
        made = {"confusion": figures.confusion(classification.confusion(logits, labels), self._data.classes)}
        found: Any = self.model.classifier
        kernel = found.filters(jax.tree.map(np.asarray, params))
        if kernel is not None:
            made["filters"] = figures.filters(kernel)
        if hasattr(found, "attention_maps"):
            images = self._final.images(np.arange(min(SHOWN, self._final.count)))
            pixels = self.model.normalised(jnp.asarray(images, jnp.float32) / 255)
            maps = found.attention_maps({"params": params, **stats}, pixels)
            before = int(found.pool == "token")
            received = np.asarray(maps).mean(axis=(2, 3))[..., before : before + found.grid[0] * found.grid[1]]
            made["attention"] = figures.attention(images / 255, received.reshape(*received.shape[:2], *found.grid))
        return made

    def facts(self) -> Record:
        """Record entries of the dataset and the attention chosen."""
        found: Any = self.model.classifier
        per_example = models.cost(self._config.model.name, found).tokens_per_example
        images = self._train.size
        choice = getattr(found, "attention_choice", None)
        return {
            **self._data.facts(),
            "seq_len": per_example,
            "vocab_size": None,
            "available_tokens": None if images is None else images * per_example,
            **({} if choice is None else {"attention": f"{choice.name} ({choice.reason})"}),
        }

    def keep(self, folder: Path) -> None:
        """Nothing: images need no vocabulary."""

    def _split(self, final: bool) -> datasets.Split:
        return self._final if final else self._data.split("validation")

    def _scored(self, outputs: Iterable[np.ndarray], final: bool) -> tuple[np.ndarray, np.ndarray]:
        split = self._split(final)
        logits = np.concatenate([np.asarray(part) for part in outputs])[: split.count]
        return logits, split.labels(np.arange(split.count))
