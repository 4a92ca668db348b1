"""Plans: the points of a sweep config resolved to runs, without duplicates, and those that are refused."""

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from sweeps import design as designs, point_filter
from training import config as configs, fork, identity, schedule
from training.errors import BadInput
from training.task import resolve as family_of

ONE_RATIO = 1.1  # ratios of data to parameters that lie within this factor are one: durations are whole steps
# Keys and sections that enter a compiled step as arrays, or not at all: runs that differ only in them share one program.
INPUTS = (
    "seed",
    "duration",
    "recipe",
    "schedule",
    "checkpoint",
    "fork_from",
    "log",
    "derived",
    "model.size",
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.clip",
    "optimizer.ema",
    "lora.alpha",
    "replicas.every",
    "replicas.outer.lr",
    "replicas.outer.momentum",
)


def defaults() -> ConfigDict:
    """The keys of a sweep config beside `base`, the config that all its runs share."""
    return ConfigDict(
        {
            "name": "",  # empty: the config file's
            "design": (),  # what sweeps.design makes
            "min_steps": 1,  # points with fewer steps are refused
            "max_epochs": placeholder(float),  # and points that see an example more often than this
            "strict": False,  # refused points are an error
            # What `isoflop study` does beside the sweep: the largest values of the label `budget` are held out.
            "study": {
                "held_out": 1,  # so many of them, all predicted before the first of them is trained
                "law": "chinchilla",
                "d": "tokens",  # the column that is D: images are counted in "examples"
                "loss": "loss",
                "size": "",  # the key that makes the size; where a budget's best is at an edge, the next one is added
            },
            # A baseline: the mean of `metric` over the runs as it was measured, and how far off another mean may be;
            # without a mean it has not been reproduced.
            "expected": {
                "metric": "accuracy",
                "mean": placeholder(float),
                "tolerance": placeholder(float),
                "claimed": placeholder(float),  # by `source`
                "source": "",
                "measured": "",  # when, on what, in how long
            },
        }
    )


def complete(partial: ConfigDict, where: str = "config") -> ConfigDict:
    """A sweep config laid over its defaults, `base` over those of the engine and its family; locked.

    Args:
        partial: the keys that were given.
        where: the file, for messages; names the sweep where it has no name.

    Raises:
        BadInput: an unknown key, a value of the wrong type, or a design that is none.
    """
    full = defaults()
    beside_base = ConfigDict({key: value for key, value in partial.items() if key != "base"})
    configs.merge(full.lock(), beside_base, where)
    with full.unlocked():
        full.base = configs.complete(partial.get("base", ConfigDict()), f"{where}: base")
    full.name = full.name or Path(where).stem
    if not full.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or full.name.startswith("."):
        raise BadInput(f"{where}: name {full.name!r} is not made of letters, digits, '-', '_' and '.'")
    try:
        designs.points(full.design)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{where}: {error}") from error
    return full.lock()


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a design: a resolved run, or the reason why there is none.

    Attributes:
        overrides: of the base config, by dotted key.
        labels: columns of its record.
        config: the resolved config; None: the point cannot be one.
        epochs: how often an example is met; None: no limit was set, or it is not known.
        refused: why it is not run; None: it is.
        trunk: the point that this one is forked from; None: it is trained from its first step on.
        fork_step: steps that the trunk has made at the fork.
    """

    overrides: dict[str, Any]
    labels: dict[str, Any]
    config: ConfigDict | None = None
    epochs: float | None = None
    refused: str | None = None
    trunk: "Point | None" = None
    fork_step: int = 0

    @property
    def run_id(self) -> str:
        """The identity of the run."""
        return self._config.derived.run_id

    @property
    def flops(self) -> float:
        """Exact training FLOPs of the whole way, from the first step of the trunk on."""
        return self._config.derived.flops

    @property
    def own_flops(self) -> float:
        """Exact training FLOPs of the steps after the fork; all of them where there is none."""
        return self.flops * (1 - self.fork_step / self._config.derived.steps)

    @functools.cached_property
    def counts(self) -> dict[str, Any]:
        """What the run will count, by the names of its record, from shapes alone."""
        config, derived = self._config, self._config.derived
        cost = family_of(config.task).cost(config)
        return {
            "run_id": derived.run_id,
            "task": config.task,
            "family": config.model.get("name", config.task),
            "params_total": cost.params_total,
            "params_non_embedding": cost.params_non_embedding,
            "params_active": cost.active,
            "tokens": derived.tokens,
            "examples": derived.examples,
            "steps": derived.steps,
            "batch_size": config.batch_size,
            "peak_lr": config.optimizer.learning_rate,
            "seed": config.seed,
            "flops_6nd": 6.0 * cost.params_total * derived.tokens,
            "flops_6nd_non_embedding": 6.0 * cost.params_non_embedding * derived.tokens,
            "flops_6nd_active": 6.0 * cost.active * derived.tokens,
            "flops_exact": derived.flops,
        }

    @functools.cached_property
    def compile_key(self) -> str:
        """Points of equal key share one compiled step (the converse need not hold)."""
        return compile_key(self._config)

    @property
    def _config(self) -> ConfigDict:
        assert self.config is not None, "a refused point has no run"
        return self.config


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a sweep.

    Attributes:
        name: of the sweep; empty for a single run.
        base: the config that the points override.
        points: to be run, in the order of the design, a trunk before its branches.
        refused: points that are not run.
        duplicates: points that are the same run as one before them.
    """

    name: str
    base: ConfigDict
    points: tuple[Point, ...]
    refused: tuple[Point, ...] = ()
    duplicates: tuple[Point, ...] = ()

    @property
    def flops(self) -> float:
        """Exact training FLOPs of all runs; steps that branches share with their trunk count once."""
        return sum(point.own_flops for point in self.points)

    @property
    def data_per_param(self) -> list[float]:
        """Training data by parameters of each run, in what the family counts it in: tokens, or images."""
        column = "tokens" if family_of(self.base.task).UNIT == "tokens" else "examples"
        return [point.counts[column] / point.counts["params_total"] for point in self.points]

    @property
    def one_ratio(self) -> bool:
        """Whether runs of several sizes all have one ratio of data to parameters: no law of both is identified."""
        sizes, ratios = {point.counts["params_total"] for point in self.points}, self.data_per_param
        return len(sizes) > 1 and max(ratios) < ONE_RATIO * min(ratios)

    @functools.cached_property
    def compile_keys(self) -> Counter[str]:
        """Runs by compile key."""
        return Counter(point.compile_key for point in self.points)


def plan(sweep: ConfigDict, where: Sequence[str] = ()) -> Plan:
    """Resolve the points of a completed sweep config; a completed run config is a sweep of one point.

    Args:
        sweep: the config.
        where: only points that meet these conditions (`sweeps.point_filter`) on their labels, their overrides (a point
            that does not override a key has the value of `base`) and their counts (`Point.counts`).

    Raises:
        BadInput: a point names an unknown key, nothing is left, or the sweep is strict and a point is refused.
    """
    if "design" not in sweep:
        return Plan("", sweep, (Point({}, {}, configs.resolve(sweep)),))
    points = _resolved_points(sweep, where)
    if not points:
        which = " that meet " + " and ".join(where) if where and sweep.design else ""
        raise BadInput(f"sweep {sweep.name}: the design has no points{which}")
    runs: dict[str, Point] = {}
    refused, duplicates = [], []
    seen: set[int] = set()  # a trunk is that of several points, and may be one itself
    for point in [each for branch in points for each in (branch.trunk, branch) if each is not None]:
        if id(point) in seen:
            continue
        seen.add(id(point))
        if point.refused is not None:
            refused.append(point)
        elif point.run_id in runs:
            duplicates.append(point)
        else:
            runs[point.run_id] = point
    if refused and (sweep.strict or not runs):
        reasons = "; ".join(sorted({str(point.refused) for point in refused})[:3])
        raise BadInput(f"sweep {sweep.name}: {len(refused)} of {len(points)} points are refused: {reasons}")
    return Plan(sweep.name, sweep.base, tuple(runs.values()), tuple(refused), tuple(duplicates))


def _resolved_points(sweep: ConfigDict, where: Sequence[str]) -> list[Point]:
    """The points that meet all conditions; those of the design alone are applied before the points are resolved."""
    base = identity.flatten(sweep.base.to_dict())
    try:
        points = [designs.split(point) for point in designs.points(sweep.design)]
        keys = dict.fromkeys(key for overrides, _ in points for key in overrides)
        rows = [{key: base.get(key) for key in keys} | overrides | labels for overrides, labels in points]
        names = {name for row in rows for name in row}
        of_design = [condition for condition in where if point_filter.names_of(condition) <= names]
        chosen = point_filter.select(rows, of_design) if of_design else range(len(rows))
        resolved = _resolved(sweep, points, [designs.trunk_of(point) for point in sweep.design], chosen)
        of_counts = [condition for condition in where if condition not in of_design]
        if not of_counts or not resolved:
            return resolved
        rows = [
            ({} if point.refused else point.counts)
            | {key: value for key, value in rows[i].items() if value is not None}
            for point, i in zip(resolved, chosen, strict=True)
        ]
        return [resolved[i] for i in point_filter.select(rows, of_counts)]
    except (TypeError, ValueError) as error:
        raise BadInput(f"sweep {sweep.name}: {error}") from error


def _resolved(
    sweep: ConfigDict,
    points: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    trunks: Sequence[dict[str, Any] | None],
    chosen: Iterable[int],
) -> list[Point]:
    """Chosen points, each with its trunk: that of the design, where it has one of these overrides.

    Args:
        sweep: the config.
        points: overrides and labels of all points.
        trunks: the overrides of their trunks; None where they are no forks.
        chosen: numbers of points.
    """
    index = {digest(overrides): i for i, (overrides, _) in reversed(list(enumerate(points))) if trunks[i] is None}

    @functools.cache
    def whole(i: int) -> Point:
        return _point(sweep, *points[i])

    @functools.cache
    def beside(key: str, i: int) -> Point:
        return whole(index[key]) if key in index else _point(sweep, trunks[i] or {}, {})

    resolved = []
    for i in chosen:
        trunk = trunks[i]
        if trunk is None:
            resolved.append(whole(i))
            continue
        key = digest(trunk)
        first = next(k for k, each in enumerate(trunks) if each is not None and digest(each) == key)
        resolved.append(_branch(sweep, *points[i], beside(key, first)))
    return resolved


def _branch(sweep: ConfigDict, overrides: dict[str, Any], labels: dict[str, Any], trunk: Point) -> Point:
    """A point that is forked from its trunk, with the batch, the warmup and what else the recipe made of the trunk.

    Args:
        sweep: the config.
        overrides: of the point.
        labels: of the point.
        trunk: resolved.
    """
    if trunk.config is None or trunk.refused is not None:
        return Point(overrides, labels, refused=f"its trunk is refused: {trunk.refused}")
    given = identity.flatten(configure(sweep.base, overrides).optimizer.to_dict())
    shared = {
        "batch_size": trunk.config.batch_size,
        **{
            f"optimizer.{key}": value
            for key, value in identity.flatten(trunk.config.optimizer.to_dict()).items()
            if given[key] is None and value is not None
        },
        **dict.fromkeys(f"schedule.{key}" for key in identity.WARMUP),
        "schedule.warmup_steps": trunk.config.derived.warmup_steps,
    }
    point = _point(sweep, overrides | shared, labels)
    if point.config is None or point.refused is not None:
        return point
    config = point.config
    try:
        if config.schedule.name != "wsd":
            raise BadInput(f"schedule.name: a branch needs wsd, got {config.schedule.name}")
        before = (1 - float(schedule.options(config.schedule)["decay_fraction"])) * config.derived.steps + 1e-6
        fork_step = int(before) // config.steps_per_call * config.steps_per_call
        fork.check(config, trunk.config, fork_step)
    except BadInput as error:
        return dataclasses.replace(point, config=None, refused=str(error))
    return dataclasses.replace(point, trunk=trunk, fork_step=fork_step)


def configure(base: ConfigDict, overrides: dict[str, Any]) -> ConfigDict:
    """A completed config with overrides laid over it; locked.

    Args:
        base: the config.
        overrides: by dotted key.

    Raises:
        BadInput: an unknown key, or a value of the wrong type.
    """
    config = ConfigDict(base.copy_and_resolve_references()).lock()
    configs.merge(config, ConfigDict(_nested(overrides)), "design")
    return config


def compile_key(config: ConfigDict) -> str:
    """A hash of everything in a resolved config that can change the compiled step."""
    flat = identity.flatten(config.to_dict())
    inputs = (*INPUTS, *family_of(config.task).INPUTS)
    below = tuple(f"{section}." for section in inputs)
    constants = {key: value for key, value in flat.items() if key not in inputs and not key.startswith(below)}
    constants["ema"] = config.optimizer.ema > 0
    constants["parametrization"] = identity.semantic(config).get("parametrization")
    constants["calls"] = config.derived.steps % config.steps_per_call > 0
    return digest(constants)


def digest(value: Any) -> str:
    """The first 12 hex digits of the SHA-256 of a value's JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()[:12]


def _point(sweep: ConfigDict, overrides: dict[str, Any], labels: dict[str, Any]) -> Point:
    config = configure(sweep.base, overrides)
    try:
        config = configs.resolve(config)
    except BadInput as error:
        return Point(overrides, labels, refused=str(error))
    epochs = None
    if sweep.max_epochs is not None:
        available = family_of(config.task).available(config)
        epochs = 0.0 if available is None else config.derived.examples / available
    refused = None
    if config.derived.steps < sweep.min_steps:
        refused = f"{config.derived.steps} steps are fewer than min_steps = {sweep.min_steps}"
    elif epochs is not None and sweep.max_epochs is not None and epochs > sweep.max_epochs:
        refused = f"{epochs:.3g} epochs are more than max_epochs = {sweep.max_epochs:g}"
    return Point(overrides, labels, config, epochs, refused)


def _nested(overrides: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in overrides.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise BadInput(f"design: {key} and {section} are both given")
        node[last] = value
    return tree
