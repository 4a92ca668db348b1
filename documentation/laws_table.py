"""The reference of laws: each from its declaration."""

from documentation.markdown import cell, table
from laws import Law
from laws.model.forms import FAMILIES, THEMES
from laws.model.variables import VARIABLES


def section(law: Law) -> str:
    """Formula, source, variables and constants of a law."""
    rows = [(f"`{p.name}`", p.meaning, f"{p.low:g} to {p.high:g}") for p in law.params]
    optional = f" (can do without {', '.join(f'`{name}`' for name in law.optional)})" if law.optional else ""
    reads = ", ".join(f"`{name}`" for name in law.columns) + optional
    return (
        f"### `{law.name}`\n\n```text\n{law.formula}\n```\n\n"
        f"Predicts {cell(law.observable)}; reads {reads}. Source: {law.source}.\n\n"
        f"{table(('constant', 'meaning', 'bounds'), rows)}"
    )


def themes() -> dict[str, tuple[str, list[Law]]]:
    """Of every theme by its module's name: the first line of its documentation, and its laws."""
    return {
        theme.__name__.rpartition(".")[2]: ((theme.__doc__ or "").strip().splitlines()[0], list(theme.LAWS))
        for theme in THEMES
    }


def page() -> str:
    """All laws by theme, the families of one variable, and the variables that laws read."""
    parts = [
        f"## {name}\n\n{summary}" + "".join(f"\n\n{section(law)}" for law in laws)
        for name, (summary, laws) in themes().items()
    ]
    return "\n\n".join([*parts, families(), variables()])


def families() -> str:
    """Laws of one variable, which are there for every variable."""
    rows = [(f"`{name}_VARIABLE`", f"`{make('c').formula}`") for name, make in FAMILIES.items()]
    text = "Declared once for all variables: `power_offset_c` as well as `power_offset_width`. Of C they read:"
    return f"## Of any one variable\n\n{text}\n\n{table(('law', 'formula'), rows)}"


def variables() -> str:
    """The variables that a law may read."""
    rows = [(f"`{item.name}`", item.symbol, item.meaning, f"`{item.column}`") for item in VARIABLES.values()]
    return "## Variables\n\n" + table(("variable", "symbol", "meaning", "column where it is looked for"), rows)
