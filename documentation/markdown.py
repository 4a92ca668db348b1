"""Markdown that the generated pages share."""

from collections.abc import Iterable, Sequence


def cell(text: object) -> str:
    """Text inside a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def code(value: object) -> str:
    """A value as code, inside a cell too; nothing for an empty one."""
    return f"`{cell(value)}`" if str(value) else ""
