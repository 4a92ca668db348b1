"""LibreOffice's help in two languages: paragraphs that have the same page and the same id."""

from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

from lm.corpora.source import Document, Source
from training.debian import VERSION, fetch
from training.errors import BadInput

KEY = "data.corpus_args.languages"
PARAGRAPHS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")
VOID = ("img", "br", "input", "meta", "link", "hr", "wbr", "source", "col")  # tags that nothing closes


def libreoffice(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `libreoffice`: every paragraph in one language and in another, split by page.

    Args:
      args: `languages`, two codes with a comma between them ("en-US,de"), as in the names of the packages.
      cache: the Debian packages libreoffice-help-CODE are unpacked in its folder `debian`.

    Raises:
      BadInput: not two languages, or one whose package cannot be fetched.
    """
    languages = [name.strip() for name in args.get("languages", "en-US,de").split(",")]
    if len(languages) != 2:
        raise BadInput(f"{KEY}: libreoffice wants two, as in 'en-US,de', got {','.join(languages)!r}")
    folders = [fetch(f"libreoffice-help-{name.lower()}", cache, KEY) for name in languages]
    identity = {folder.name: (folder / VERSION).read_text() for folder in folders} | {"order": languages}
    pages = [folder / "usr/share/libreoffice/help" / name for folder, name in zip(folders, languages, strict=True)]
    return Source("libreoffice", identity, lambda: documents(*pages), parts=2)


def documents(source: Path, target: Path) -> Iterator[Document]:
    """(page, paragraph, its translation) of two folders with the same pages; what reads alike in both is left out, and
    so is a paragraph that an earlier page had."""
    seen: set[str] = set()
    for path in sorted(source.rglob("*.html")):
        page = path.relative_to(source)
        if (target / page).is_file():
            translated = paragraphs((target / page).read_text())
            for name, text in paragraphs(path.read_text()).items():
                other = translated.get(name)
                if other and other != text and text not in seen:
                    seen.add(text)
                    yield page.as_posix(), text, other


def paragraphs(html: str) -> dict[str, str]:
    """The text of every paragraph and heading with an id, in the order of the page."""
    reader = _Reader()
    reader.feed(html)
    texts = {name: " ".join("".join(parts).split()) for name, parts in reader.found.items()}
    return {name: text for name, text in texts.items() if text}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self.current: list[str] | None = None
        self.hidden = 0  # tags open within one that is not shown

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("id") or ""
        if tag in PARAGRAPHS:
            self.current = self.found.setdefault(name, []) if name else None
            self.hidden = 0
        # Of what depends on the system or the program, the page shows one: what is meant elsewhere.
        elif tag not in VOID and (self.hidden or ("hidden" in given and not name.startswith("default"))):
            self.hidden += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in PARAGRAPHS:
            self.current = None
        elif self.hidden and tag not in VOID:
            self.hidden -= 1

    def handle_data(self, data: str) -> None:
        if self.current is not None and not self.hidden:
            self.current.append(data)
