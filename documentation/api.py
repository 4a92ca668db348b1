"""The reference of the Python interface: directives of mkdocstrings for what the packages export."""

import inspect

import laws
from sweeps import design


def names() -> list[str]:
    """Public functions, classes and tables of `laws`, then the functions of `sweeps.design`."""
    functions = [
        name
        for name, value in vars(design).items()
        if inspect.isfunction(value) and value.__module__ == design.__name__ and not name.startswith("_")
    ]
    return [*(f"laws.{name}" for name in laws.__all__), *(f"sweeps.design.{name}" for name in functions)]


def path_of(name: str) -> str:
    """Where an exported name is defined, which is where its documentation stands."""
    package, _, exported = name.rpartition(".")
    value = getattr(laws if package == "laws" else design, exported)
    module = getattr(value, "__module__", None)
    return name if module is None or not hasattr(value, "__qualname__") else f"{module}.{value.__qualname__}"


def page() -> str:
    """A heading and a directive a name."""
    parts = []
    for name in names():
        parts.append(f"## {name}\n\n::: {path_of(name)}")
    return "\n\n".join(parts)
