"""Registries: tables of named things, the options that each reads of its config section, and the models of a family."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ml_collections import ConfigDict

from training.cost import Cost
from training.errors import BadInput, nearest
from training.types import Option


class ModelKind(NamedTuple):
    """One kind of model: a row of a family's table. `data` is what a model has to know of its data.

    Attributes:
      options: keys of the section `model` that it reads, with their defaults; None: it follows from the size or the width.
      build: (options, *data, further fields) -> module.
      shape: (options, *data) -> values for what is None, of given options; by the width, or by the size where the family
        puts one first.
      check: raises BadInput where fields of a module contradict each other.
      cost: (module, and what an example is) -> its cost.
      role: what it is trained for.
      lr_multiplier: how many times the learning rate of the family's rule it wants.
      variant: the options of a published shape by name; None: there are none.
    """

    options: Mapping[str, Option]
    build: Callable[..., Any]
    shape: Callable[..., Mapping[str, Option]]
    check: Callable[..., None]
    cost: Callable[..., Cost]
    role: str = ""
    lr_multiplier: float = 1.0
    variant: Callable[[str], Mapping[str, Option]] | None = None


@runtime_checkable
class HasOptions(Protocol):
    """A row of a table that has options, with their defaults."""

    @property
    def options(self) -> Mapping[str, Option]: ...


def chosen(section: str, table: Mapping[str, HasOptions], config: ConfigDict, common: set[str]) -> dict[str, Any]:
    """The options of the row of `table` that `config.name` names: those given, else the row's own defaults.

    Args:
      section: name of the config section, for messages.
      table: rows that have `options`, by name.
      config: the section.
      common: keys of the section that belong to no row.

    Raises:
      BadInput: an unknown name, or an option given that the row does not use.
    """
    name = config["name"]
    if name not in table:
        raise BadInput(f"{section}.name: no {name!r}{nearest(name, table)} (known: {', '.join(table)})")
    options = table[name].options
    for key, value in config.items():
        if key not in common and key not in options and value is not None:
            uses = ", ".join(options) or "no options"
            raise BadInput(f"{section}.{key} is not used by {name} (it uses {uses})")
    return {key: default if config.get(key) is None else config[key] for key, default in options.items()}


def option_types(table: Mapping[str, ModelKind]) -> dict[str, type]:
    """The type of every option that some row of a table has a default for."""
    return {key: type(value) for kind in table.values() for key, value in kind.options.items() if value is not None}
