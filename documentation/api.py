"""The reference of the Python interface: directives of mkdocstrings for what the packages export."""

import inspect

import isoflop
import laws
from sweeps import design

PACKAGES = {"isoflop": isoflop, "laws": laws, "sweeps.design": design}


def names() -> list[str]:
    """What `isoflop` and `laws` export, then the functions of `sweeps.design`."""
    functions = [
        name
        for name, value in vars(design).items()
        if inspect.isfunction(value) and value.__module__ == design.__name__ and not name.startswith("_")
    ]
    exported = [f"{package}.{name}" for package in ("isoflop", "laws") for name in PACKAGES[package].__all__]
    return [*exported, *(f"sweeps.design.{name}" for name in functions)]


def path_of(name: str) -> str:
    """Where an exported name is defined, which is where its documentation stands."""
    package, _, exported = name.rpartition(".")
    value = getattr(PACKAGES[package], exported)
    module = getattr(value, "__module__", None)
    return name if module is None or not hasattr(value, "__qualname__") else f"{module}.{value.__qualname__}"


def page() -> str:
    """A heading and a directive a name."""
    parts = []
    for name in names():
        parts.append(f"## {name}\n\n::: {path_of(name)}")
    return "\n\n".join(parts)
