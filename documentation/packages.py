"""Drawings of the packages and their layers, from the import contracts in `pyproject.toml`."""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
WIDTH, ROW, GAP, LETTER = 720, 34, 8, 7.4


class Drawing(NamedTuple):
    """A stack of layers: each imports only from those below it."""

    title: str
    layers: list[list[str]]


def drawings() -> list[Drawing]:
    """The contracts that are layers, packages first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [_drawing(contract) for contract in contracts if contract["type"] == "layers"]


def _drawing(contract: dict[str, Any]) -> Drawing:
    title = contract["containers"][0] if "containers" in contract else "packages"
    return Drawing(title, [[name.strip() for name in layer.split("|")] for layer in contract["layers"]])


def least_width(name: str) -> float:
    """Of the box of a name."""
    return len(name) * LETTER + 24


def plain(text: str) -> str:
    """Text in which Markdown finds no emphasis."""
    return text.replace("_", "&#95;")


def rows_of(names: list[str]) -> list[list[str]]:
    """Names side by side in as many rows as the width asks for."""
    rows: list[list[str]] = [[]]
    room = float(WIDTH)
    for name in names:
        wide = least_width(name) + GAP
        if rows[-1] and wide > room:
            rows.append([])
            room = float(WIDTH)
        rows[-1].append(name)
        room -= wide
    return rows


def svg(drawing: Drawing) -> str:
    """The layers as boxes, the upper ones import from the lower ones."""
    parts: list[str] = []
    y = 4.0
    for layer in drawing.layers:
        for row in rows_of(layer):
            spare = (WIDTH - GAP * (len(row) - 1) - sum(map(least_width, row))) / len(row)
            x = 0.0
            for name in row:
                box = least_width(name) + spare
                parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{box:.1f}" height="{ROW - 6}" rx="3"/>')
                parts.append(f'<text x="{x + box / 2:.1f}" y="{y + 18:.1f}">{plain(name)}</text>')
                x += box + GAP
            y += ROW
        y += GAP
    label = f"Layers of {drawing.title}, from the top: " + "; ".join(", ".join(layer) for layer in drawing.layers)
    return (
        f'<svg class="layers" viewBox="-1 0 {WIDTH + 2} {y:.0f}" role="img" aria-label="{plain(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def page() -> str:
    """A drawing for every contract of layers."""
    return "\n\n".join(f"### Layers of `{item.title}`\n\n{svg(item)}" for item in drawings())
