"""The identity of a run: a hash of the keys of its config that differ from their defaults.

A new key whose default leaves the computation as it was changes no identity; a default that changes calls for another
`SCHEMA`, since the same keys then mean another run. `tests/training/test_identity.py` holds both.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from training import transforms
from training.defaults import defaults
from training.errors import BadInput
from training.task import resolve as family_of
from training.types import Option

SCHEMA = 1  # version of the defaults that an identity leaves out

# Keys and sections that change how fast or where a run goes, never what it computes.
INDIFFERENT = (
    "steps_per_call",
    "deterministic",
    "compiler_options",
    "mesh",
    "checkpoint",
    "log",
    "derived",
    "duration",
    "recipe",  # what it makes of a config is: learning rate, batch size, `derived.parametrization`, ...
    "init_from.run",
    "init_from.step",
    "fork_from",  # the steps before a fork are those of the trunk, bit for bit: `training.fork`
    "teacher.run",
    "teacher.step",
)
# Keys and sections that a run which goes on must keep: its examples are functions of them and of the step, so that with
# other values some would be read twice or never, and the count of examples would be none.
FIXED = ("batch_size", "seed", "data")
WARMUP = ("warmup_steps", "warmup_tokens", "warmup_fraction")  # of which `warmup_steps` is derived


def indifferent(task: str) -> tuple[str, ...]:
    """Keys and sections that are no part of a run's identity, the engine's and the family's."""
    return (*INDIFFERENT, *family_of(task).INDIFFERENT)


def semantic(config: ConfigDict) -> dict[str, Option]:
    """The keys of a resolved config that differ from their defaults, flat (`model.width`: 256), and what is derived of them.

    A key of the section `model` is compared with the default of the named model; one without a default (a width, a
    learning rate) is always there, whether it was given or derived.
    """
    neutral = default_values(config.task, config.model.get("name"))
    given = {
        key: value for key, value in flatten(config.to_dict()).items() if value is not None
    }  # None: nobody reads it
    values = {key: value for key, value in given.items() if plain(value) != plain(neutral.get(key))}
    derived, unused = config.derived, transforms.unused(config)
    unused += () if derived.get("teacher") else ("teacher",)
    left_out = (*indifferent(config.task), *(f"schedule.{key}" for key in WARMUP), *unused)
    meaning = {key: value for key, value in values.items() if not under(key, left_out)}
    of_derived = {key: derived.get(key) for key in ("steps", "warmup_steps", "parent", "teacher", "parametrization")}
    of_derived = {key: value.to_dict() if isinstance(value, ConfigDict) else value for key, value in of_derived.items()}
    return meaning | {key: value for key, value in of_derived.items() if value is not None}


def default_values(task: str, model: str | None) -> dict[str, Option]:
    """The defaults of all keys, flat: the engine's, the family's and those of the named model."""
    family = family_of(task)
    values = _of_the_engine() | flatten(family.defaults().to_dict())
    return values | {f"model.{key}": value for key, value in family.model_options(model).items() if value is not None}


@functools.cache
def _of_the_engine() -> dict[str, Option]:
    return flatten(defaults().to_dict())


def of_model(config: ConfigDict) -> dict[str, object]:
    """The section `model` as it is stored, without what is no part of a run's identity."""
    left_out = indifferent(config.task)
    return {key: plain(value) for key, value in config.model.items() if not under(f"model.{key}", left_out)}


def run_id(config: ConfigDict) -> str:
    """The first 12 hex digits of the SHA-256 of the schema and the semantic keys of a resolved config."""
    text = json.dumps([SCHEMA, semantic(config)], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_schema(derived: ConfigDict, where: str) -> None:
    """Raise BadInput where a config was resolved with the defaults of another schema."""
    schema = derived.get("schema")
    if schema != SCHEMA:
        raise BadInput(f"{where}: its config has the schema {schema}, this version reads {SCHEMA}")


def changes(old: Mapping[str, Option], new: Mapping[str, Option]) -> list[str]:
    """The keys by which two semantic configs differ."""
    return sorted(key for key in old.keys() | new.keys() if plain(old.get(key)) != plain(new.get(key)))


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def plain(value: object) -> object:
    """A value as JSON has it, with lists for tuples."""
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def under(key: str, sections: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of these, or lies in a section that is."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)
