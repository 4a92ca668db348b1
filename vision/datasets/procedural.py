"""Endless labelled images whose Bayes error is known: noisy views of random patterns, the rarer the less often seen.

Every class has `species` patterns, and pattern j of a class comes with probability proportional to j^-(1 + exponent).
What a model has not seen or has no room for is the tail of that law, so that its loss falls as a power of data and of
parameters (Hutter 2021, Learning curve theory, arXiv 2102.04074; Michaud et al. 2023, The quantization model of neural
scaling, arXiv 2303.13506). An image is a pattern shifted cyclically, perhaps turned into its negative, under Gaussian
noise: invariances that a model must learn as well.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8
from ml_collections import ConfigDict
from scipy.special import ndtri

from training import cache
from training.errors import BadInput
from training.files import read_object, write_json
from training.permutation import fold, permute, uniforms, words
from vision.datasets.dataset import Dataset, Split

VERSION = 1
TRAIN_IMAGES = 1 << 40  # more than any run reads: the stream never repeats
HELD_IMAGES = 10_000  # in the validation and test splits
GREY = 127.5  # a pixel's mean
RANGE = 4.0  # standard deviations of a pixel between grey and white: 6 in 100,000 are clipped
CHUNK = 1 << 16  # pixels drawn together: they stay in the processor's cache
LEVELS = 1 << 16  # equally likely values of the noise, finer than a pixel's 256 by far
STREAMS = ("patterns", "train", "validation", "test", "bayes")
COMPARED = 1 << 18  # likelihoods computed together
LEAST = np.float32(-80)  # powers of e below are nothing beside the largest, and slow: their results are denormal
MEMORY = 16 << 30  # bytes of all patterns, at most
VIEWS = 2_000_000_000  # comparisons of an image with a view of a pattern from which a Bayes error is estimated


@dataclasses.dataclass(frozen=True)
class Procedural:
    """A world of patterns.

    Args:
      size, channels: of an image.
      num_classes: all equally likely.
      species: patterns a class.
      exponent: a in the probability j^-(1 + a) of a class's j-th pattern.
      frequency: the shortest waves of a pattern go so many times into its side.
      shift: the furthest a pattern is moved down and across, either way, in pixels.
      negatives: half of the images are negatives.
      noise: standard deviation of a pixel's noise, where that of the pattern is 1.
      label_noise: share of the labels that are drawn anew from all classes.
      world: seed of the patterns.

    Raises:
      BadInput: a value out of range.
    """

    size: int = 16
    channels: int = 1
    num_classes: int = 10
    species: int = 1024
    exponent: float = 0.5
    frequency: int = 3
    shift: int = 2
    negatives: bool = True
    noise: float = 2.0
    label_noise: float = 0.0
    world: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "size": (3, 1024),  # a wave goes into it
            "channels": (1, 16),
            "num_classes": (2, 1 << 20),
            "species": (1, 1 << 24),
            "exponent": (0.0, 16.0),
            "frequency": (1, (self.size - 1) // 2),
            "shift": (0, self.size // 2),
            "noise": (0.0, 100.0),
            "label_noise": (0.0, 1.0),
        }
        for key, (least, most) in ranges.items():
            if not least <= (value := getattr(self, key)) <= most:
                raise BadInput(f"data.dataset_args.{key}: dataset procedural wants {least} to {most}, got {value}")
        views = 4 * self.num_classes * self.species * self.channels * (self.size + 2 * self.shift) ** 2
        if views > MEMORY:
            raise BadInput(
                f"data.dataset_args.species: {self.species:,} patterns of {self.num_classes:,} classes take "
                f"{views >> 20:,} MiB of memory, and at most {MEMORY >> 20:,} are used"
            )

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.size, self.size, self.channels

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(str(label) for label in range(self.num_classes))

    @property
    def unit(self) -> float:
        """Levels of grey in one standard deviation of a pattern."""
        return GREY / (RANGE * np.hypot(1.0, self.noise))

    @functools.cached_property
    def rates(self) -> Float[np.ndarray, " species"]:
        """Probability of each pattern of a class."""
        weights = np.arange(1, self.species + 1, dtype=np.float64) ** -(1.0 + self.exponent)
        return weights / weights.sum()

    @functools.cached_property
    def waves(self) -> Float32[np.ndarray, "waves size size"]:
        """Sines and cosines of every direction up to the highest frequency, but for the constant."""
        k = np.arange(-self.frequency, self.frequency + 1)
        down, across = (grid.ravel() for grid in np.meshgrid(k, k, indexing="ij"))
        half = ((down > 0) | ((down == 0) & (across > 0))) & (down**2 + across**2 <= self.frequency**2)
        place = np.arange(self.size) / self.size
        phase = down[half, None, None] * place[:, None] + across[half, None, None] * place
        return np.concatenate([np.cos(2 * np.pi * phase), np.sin(2 * np.pi * phase)]).astype(np.float32)

    @functools.cached_property
    def weights(self) -> Float32[np.ndarray, "patterns channels waves"]:
        """Patterns as sums of waves, all classes one after the other; each has mean 0 and variance 1 over its pixels."""
        patterns, waves = self.num_classes * self.species, len(self.waves)
        rows = np.arange(patterns, dtype=np.uint64)
        drawn = ndtri(uniforms(self.key("patterns"), rows, self.channels * waves) + 2.0**-54)
        energy = np.square(drawn).sum(axis=1, keepdims=True) / (2 * self.channels)  # a wave has the mean square 1/2
        return (drawn / np.sqrt(energy)).reshape(patterns, self.channels, waves).astype(np.float32)

    def key(self, stream: str, *more: int) -> int:
        """Names what is drawn for a stream of this world."""
        return fold(VERSION, self.world, STREAMS.index(stream), *more)

    def labels(self, key: int, rows: Int[np.ndarray, " rows"]) -> Int32[np.ndarray, " rows"]:
        """Labels of images of a stream."""
        return self._choices(key, rows)["label"].astype(np.int32)

    def draw(
        self, key: int, rows: Int[np.ndarray, " rows"]
    ) -> tuple[UInt8[np.ndarray, "rows size size channels"], Int32[np.ndarray, " rows"]]:
        """Images and labels of a stream; (key, row) decides each.

        Args:
          key: of the stream.
          rows: images of it.
        """
        rows = np.asarray(rows)
        chosen = self._choices(key, rows)
        out = np.empty((len(rows), self.size, self.size * self.channels), np.uint8)
        pixels = out[0].size if len(rows) else 1
        for start in range(0, len(rows), max(1, CHUNK // pixels)):
            part = slice(start, start + max(1, CHUNK // pixels))
            views = self._views[chosen["pattern"][part], chosen["down"][part], chosen["across"][part] * self.channels]
            views *= chosen["sign"][part, None, None]
            drawn = words(key, rows[part].astype(np.uint64), -(-pixels // 4) + len(CHOICES))[:, len(CHOICES) :]
            noise = np.ascontiguousarray(drawn).view(np.uint16)[:, :pixels].reshape(views.shape)
            views += self._noise[noise]
            np.clip(np.rint(views, out=views), 0, 255, out=views)
            out[part] = views
        return out.reshape(len(rows), *self.image), chosen["label"].astype(np.int32)

    def _choices(self, key: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What is drawn of each image before its pixels."""
        chance = dict(zip(CHOICES, uniforms(key, np.asarray(rows).astype(np.uint64), len(CHOICES)).T, strict=True))
        label = (chance["class"] * self.num_classes).astype(np.int64)
        rank = np.searchsorted(np.cumsum(self.rates)[:-1], chance["rank"], side="right")
        other = (chance["other"] * self.num_classes).astype(np.int64)
        steps = 2 * self.shift + 1
        return {
            "pattern": label * self.species + rank,
            "label": np.where(chance["mislabelled"] < self.label_noise, other, label),
            "down": (chance["down"] * steps).astype(np.int64),
            "across": (chance["across"] * steps).astype(np.int64),
            "sign": np.where((chance["sign"] < 0.5) & self.negatives, -1, 1).astype(np.float32),
        }

    @functools.cached_property
    def _views(self) -> Float32[np.ndarray, "patterns down across size row"]:
        """Every shift of every pattern, in levels of grey: windows on patterns that go on beyond their edges."""
        patterns = np.einsum("pcw,whv->phvc", self.weights * np.float32(self.unit), self.waves, optimize=True)
        beyond = (0, 0), (self.shift, self.shift), (self.shift, self.shift), (0, 0)
        wide = np.pad(patterns, beyond, mode="wrap")
        rows = wide.reshape(*wide.shape[:2], -1)
        return np.lib.stride_tricks.sliding_window_view(rows, (self.size, self.size * self.channels), (1, 2))

    @functools.cached_property
    def _noise(self) -> Float32[np.ndarray, " levels"]:
        """Grey with each of the equally likely values of the noise."""
        quantiles = ndtri((np.arange(LEVELS) + 0.5) / LEVELS)
        return (GREY + self.noise * self.unit * quantiles).astype(np.float32)

    def posterior(self, images: UInt8[np.ndarray, "rows size size channels"]) -> Float[np.ndarray, "rows classes"]:
        """Probability of each label given the image, by Bayes's rule over all patterns, shifts and signs.

        A pattern's likelihood depends on the image through their product alone, since all have the same square; and that
        product through the image's product with the waves. Rounding to whole levels adds 1/12 to the noise's variance.
        """
        variance = self.noise**2 + 1 / (12 * self.unit**2)
        patterns = self.weights.reshape(len(self.weights), -1).T
        rows = max(1, COMPARED // len(self.weights))
        joint = np.empty((len(images), self.num_classes))
        for start in range(0, len(images), rows):
            x = (images[start : start + rows].astype(np.float32) - GREY) / np.float32(self.unit * variance)
            likelihood = self._likelihood(x.transpose(0, 3, 1, 2).reshape(-1, self.size**2), patterns)
            by_class = likelihood.reshape(-1, self.num_classes, self.species)
            joint[start : start + rows] = by_class @ self.rates.astype(np.float32)
        joint /= joint.sum(axis=1, keepdims=True)
        return (1 - self.label_noise) * joint + self.label_noise / self.num_classes

    def _likelihood(self, x: np.ndarray, patterns: np.ndarray) -> np.ndarray:
        """Likelihood of each pattern, each row up to a factor: exponentials of products, summed over shifts and signs
        and kept in range by the largest product so far."""
        steps = range(-self.shift, self.shift + 1)
        count = len(x) // self.channels
        product, power, total = np.zeros((3, count, patterns.shape[1]), np.float32)
        top = np.full((count, 1), -np.inf, np.float32)
        for moved in (np.roll(self.waves, (down, across), axis=(1, 2)) for down in steps for across in steps):
            np.matmul((x @ moved.reshape(len(moved), -1).T).reshape(count, -1), patterns, out=product)
            largest = product.max(axis=1, keepdims=True)
            if self.negatives:
                largest = np.maximum(largest, -product.min(axis=1, keepdims=True))
            if (largest > top).any():
                total *= np.exp(np.minimum(top - largest, 0))
                top = np.maximum(top, largest)
            for minuend, subtrahend in ((product, top), (-top, product))[: 1 + self.negatives]:
                np.maximum(np.subtract(minuend, subtrahend, out=power), LEAST, out=power)
                total += np.exp(power, out=power)
        return total

    def bayes(self, samples: int | None = None, seed: int = 0) -> dict[str, float]:
        """The least error and cross-entropy that any classifier can have, estimated from exact posteriors.

        Args:
          samples: images to average over; None: as many as take a few seconds, at most 10,000.
          seed: names them.

        Returns:
          "error" (share of the images) and "nats" (an image), each with its standard error as "error_sem", "nats_sem",
          and "samples".
        """
        views = len(self.weights) * (2 * self.shift + 1) ** 2 * (1 + self.negatives)
        samples = min(max(VIEWS // views, 256), HELD_IMAGES) if samples is None else samples
        rows, key = np.arange(samples), self.key("bayes", seed)
        posterior = self.posterior(self.draw(key, rows)[0])
        nats = -(posterior * np.log(np.maximum(posterior, 1e-300))).sum(axis=1)
        found = {"error": 1 - posterior.max(axis=1), "nats": nats}
        sems = {f"{name}_sem": float(values.std(ddof=1) / np.sqrt(samples)) for name, values in found.items()}
        return {name: float(values.mean()) for name, values in found.items()} | sems | {"samples": samples}


CHOICES = ("class", "rank", "down", "across", "sign", "mislabelled", "other")
ARGUMENTS = tuple(field.name for field in dataclasses.fields(Procedural))


@dataclasses.dataclass(frozen=True)
class Stream(Split):
    """A split of a procedural dataset.

    Args:
      name: for messages.
      source: the world.
      key: keeps the splits apart.
      count: images in it.
      endless: whether that many are more than any run reads.
      chosen: which images of the stream; None: the first.
    """

    name: str
    source: Procedural
    key: int
    count: int
    endless: bool = False
    chosen: Int[np.ndarray, " count"] | None = None

    def read(self, indices: Int[np.ndarray, " rows"]) -> Any:
        return self.source.draw(self.key, self._rows(indices))

    def labels(self, indices: Int[np.ndarray, " rows"]) -> Int32[np.ndarray, " rows"]:
        return self.source.labels(self.key, self._rows(indices))

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        if len(indices) and (np.min(indices) < 0 or np.max(indices) >= self.count):
            raise IndexError(f"{self.name}: an image outside [0, {self.count})")
        return np.asarray(indices) if self.chosen is None else self.chosen[indices]


def source(args: Mapping[str, Any], cache_dir: Path) -> Procedural:
    """The dataset `procedural`.

    Args:
      args: the fields of `Procedural`.
      cache_dir: not used.
    """
    return Procedural(**args)


def dataset(world: Procedural, data: ConfigDict, cache_dir: Path) -> Dataset:
    """The dataset of a config's section `data`; its Bayes error is estimated once and kept in the cache.

    Raises:
      BadInput: a key that cuts a finite dataset.
    """
    for key in ("test", "validation", "folds"):
        if data[key]:
            raise BadInput(f"data.{key}: dataset procedural draws its validation and test images apart; leave it out")
    definition = {"version": VERSION, **dataclasses.asdict(world)}
    chosen = None
    if data.limit is not None:
        if data.limit < world.num_classes:
            raise BadInput(f"data.limit: {data.limit} images cannot hold {world.num_classes} classes")
        chosen = permute(np.arange(data.limit), TRAIN_IMAGES, fold(VERSION, data.seed))
    held = {name: Stream(f"dataset procedural ({name})", world, world.key(name), HELD_IMAGES) for name in STREAMS[2:4]}
    count = data.limit or TRAIN_IMAGES
    train = Stream("dataset procedural (train)", world, world.key("train"), count, chosen is None, chosen)
    return Dataset(
        name="procedural",
        classes=world.classes,
        image=world.image,
        mean=(0.5,) * world.channels,
        std=(0.5 / RANGE,) * world.channels,
        hash=cache.digest(["procedural", definition] + ([] if chosen is None else [data.limit, data.seed])),
        splits={"train": train, **held},
        missing={},
        more={f"bayes_{name}": value for name, value in _bayes(world, definition, cache_dir / "images").items()},
    )


def _bayes(world: Procedural, definition: dict[str, Any], folder: Path) -> dict[str, float]:
    path = folder / f"procedural-{cache.digest(definition)[:12]}.json"
    if not path.is_file():
        with cache.alone(path):
            if not path.is_file():
                write_json(path, {"definition": definition, "bayes": world.bayes()})
    return read_object(path, "bayes")["bayes"]
