"""Notebooks as pages: executed, and rendered to Markdown with their figures beside them."""

import hashlib
import os
import re
import tempfile
from pathlib import Path
from subprocess import DEVNULL

import nbformat
from latex2mathml.converter import convert
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
# Where the second notebook looks for published tables, unless the environment says otherwise.
PUBLISHED = str(ROOT.parent / "shared" / "data" / "published")
# Executed notebooks are kept here, by what they were made from; nothing else reads them.
KEPT = ROOT / "build" / "notebooks"


def files() -> list[Path]:
    """The notebooks in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def title(path: Path) -> str:
    """The first heading of a notebook."""
    found = re.search(r"^# (.*)$", "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells), re.M)
    return found[1] if found else path.stem


def made_from(path: Path) -> str:
    """Hash of a notebook, the code that it runs, and whether the published tables are there."""
    digest = hashlib.sha256(path.read_bytes())
    for file in sorted([*(ROOT / "laws").rglob("*.py"), *(FOLDER / "data").rglob("*.parquet")]):
        digest.update(file.read_bytes())
    digest.update(os.environ.get("ISOFLOP_PUBLISHED", "").encode())
    return digest.hexdigest()[:16]


def executed(path: Path) -> nbformat.NotebookNode:
    """A notebook with its outputs; without them where `ISOFLOP_DOCS_EXECUTE` is 0."""
    if os.environ.get("ISOFLOP_DOCS_EXECUTE") == "0":
        return nbformat.read(path, as_version=4)
    kept = KEPT / f"{path.stem}-{made_from(path)}.ipynb"
    if kept.exists():
        return nbformat.read(kept, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:  # what a notebook writes is not kept
        (Path(folder) / "data").symlink_to(FOLDER / "data")
        client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": folder}})
        client.execute(stderr=DEVNULL, env={"ISOFLOP_PUBLISHED": PUBLISHED} | os.environ)
    KEPT.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, kept)
    return notebook


def with_mathml(source: str) -> str:
    """Text whose formulas between dollars are MathML, which browsers draw by themselves; code is left alone."""
    parts = re.split(r"(`[^`]*`)", source)
    return "".join(
        part if part.startswith("`") else re.sub(r"\$([^$]+)\$", lambda found: convert(found[1]), part)
        for part in parts
    )


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its images by file name."""
    resources = {"output_files_dir": f"{path.stem}_files", "unique_key": path.stem}
    notebook = executed(path)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_mathml(cell.source)
    body, resources = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    # Tables of pandas without its own style: the site has one.
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.S)
    body = re.sub(r"<table [^>]*>", "<table>", body)
    note = f"*From [`notebooks/{path.name}`](../../notebooks/{path.name}) of a checkout, executed when this page was made.*"
    heading, _, rest = body.partition("\n\n")
    return f"{heading}\n\n{note}\n\n{rest}", {
        Path(name).as_posix(): data for name, data in resources["outputs"].items()
    }
