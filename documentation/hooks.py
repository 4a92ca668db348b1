"""Hooks of the site: pages made from the code, files from outside `docs/`, `llms.txt`, and no file from elsewhere.

mkdocs calls the functions by their names (`mkdocs.yml`, `hooks`).
"""

import posixpath
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from documentation import api, commands, config_keys, demo_report, laws_table, notebooks, packages, record_columns

ROOT = Path(__file__).parents[1]
# What stands for `<!-- generated: NAME -->` in a page.
GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands.page,
    "engine keys": partial(config_keys.section, "engine"),
    "lm keys": partial(config_keys.section, "lm"),
    "vision keys": partial(config_keys.section, "vision"),
    "models": config_keys.models,
    "corpora": config_keys.corpora_table,
    "record columns": record_columns.page,
    "laws": laws_table.page,
    "api": api.page,
    "contracts": packages.page,
    "demo report": demo_report.figure,
}
# Files of the checkout that are pages of the site.
FROM_OUTSIDE = {
    "findings/README.md": "findings/index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
MARKER = re.compile(r"<!-- generated: ([\w ]+) -->")
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)[^>]*>")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds notebooks, findings, changes and the interactive report."""
    for script in sorted((ROOT / "findings").glob("*.sh")):
        files.append(File.generated(config, f"findings/{script.name}", content=script.read_text()))
    for outside, inside in FROM_OUTSIDE.items():
        files.append(File.generated(config, inside, content=(ROOT / outside).read_text()))
    for path in notebooks.files():
        body, images = notebooks.page(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=body))
        for name, data in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    files.append(File.generated(config, demo_report.NAME, content=demo_report.page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in what is generated, and points links that leave `docs/` to where those files are on the site."""
    source = page.file.src_uri
    folder = "" if source in FROM_OUTSIDE.values() else posixpath.dirname(source)
    base = {inside: outside for outside, inside in FROM_OUTSIDE.items()}.get(source)
    markdown = MARKER.sub(lambda found: GENERATED[found[1]](), markdown)
    outside = posixpath.join("docs", folder) if base is None else posixpath.dirname(base)
    return LINK.sub(lambda found: f"{found[1]}{link(found[2], outside, source)}{found[3]}", markdown)


def link(target: str, folder: str, source: str) -> str:
    """Where a link leads on the site.

    Args:
      target: as written.
      folder: of the checkout, from which it was written.
      source: the page, in `docs/`.
    """
    if re.match(r"[a-z]+:", target):
        return target
    path = posixpath.normpath(posixpath.join(folder, target))
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        path = f"docs/{path.removesuffix('.ipynb')}.md"
    elif path in FROM_OUTSIDE:
        path = f"docs/{FROM_OUTSIDE[path]}"
    elif path.startswith("findings/"):
        path = f"docs/{path}"
    elif not path.startswith("docs/"):
        return target
    return posixpath.relpath(path.removeprefix("docs/"), posixpath.dirname(source) or ".")


def on_post_build(config: Any, **_: Any) -> None:
    """Writes `llms.txt`, and refuses a site that loads a file from elsewhere."""
    site = Path(config["site_dir"])
    (site / "llms.txt").write_text(llms(config["nav"]))
    loaded = {
        f"{file.relative_to(site)}: {found}"
        for file in sorted(site.rglob("*.html"))
        for element in LOADED.finditer(file.read_text())
        if (found := element[1]) and 'rel="canonical"' not in element[0]
    }
    if loaded:
        raise PluginError("the site loads files from elsewhere: " + "; ".join(sorted(loaded)))


def llms(nav: list[Any]) -> str:
    """The site in one file for language models: its pages by section, each with the first sentence of its text."""
    lines = [
        "# isoflop",
        "",
        "> From a config file to a scaling law with honest error bars: JAX/Flax sweeps, certified fits, scored forecasts.",
        "",
    ]
    for entry in nav:
        ((title, pages),) = entry.items()
        lines += [f"## {title}", ""]
        lines += [
            f"- [{name}]({path.removesuffix('.md')}.html): {summary(path)}" for name, path in leaves(pages, title)
        ]
        lines.append("")
    return "\n".join(lines)


def leaves(pages: Any, title: str) -> list[tuple[str, str]]:
    """Names and files of a section of the navigation."""
    if isinstance(pages, str):
        return [(title, pages)]
    found: list[tuple[str, str]] = []
    for entry in pages:
        ((name, below),) = entry.items() if isinstance(entry, dict) else ((title, entry),)
        found += leaves(below, name)
    return found


def summary(path: str) -> str:
    """The first sentence of a page; nothing of one that is made when the site is built."""
    file = ROOT / "docs" / path
    if not file.exists():
        return "made when the site is built"
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", file.read_text(), flags=re.S | re.M)
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("#", "|", "!")))
    text = " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)|\*\*", r"\1", text).split()).removeprefix("Decided. ")
    return text.split(". ")[0].rstrip(":.")
