"""Corpora of pairs: a text and its translation, or a text and its label; what belongs together stays in one split."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from lm.corpora import packages
from lm.corpora.files import expand, opened, reading
from lm.corpora.source import Document, Source, decode
from training.cache import digest
from training.debian import VERSION, fetch
from training.errors import BadInput

ALIGNED = ("paths", "target_paths", "encoding")

# WordNet's lexicographer files by number: lexnames(5WN).
CATEGORIES = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact", "noun.attribute"),
    *("noun.body", "noun.cognition", "noun.communication", "noun.event", "noun.feeling", "noun.food", "noun.group"),
    *("noun.location", "noun.motive", "noun.object", "noun.person", "noun.phenomenon", "noun.plant"),
    *("noun.possession", "noun.process", "noun.quantity", "noun.relation", "noun.shape", "noun.state"),
    *("noun.substance", "noun.time", "verb.body", "verb.change", "verb.cognition", "verb.communication"),
    *("verb.competition", "verb.consumption", "verb.contact", "verb.creation", "verb.emotion", "verb.motion"),
    *("verb.perception", "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl"),
)
POS = ("noun", "verb", "adj", "adv")


def wordnet(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `wordnet`: the words and the definition of every synset, and its category.

    Args:
      args: none.
      cache: the Debian package wordnet-base is unpacked in its folder `debian`.

    Raises:
      BadInput: the package cannot be fetched.
    """
    del args
    folder = fetch("wordnet-base", cache, "data.corpus")
    identity = {"version": (folder / VERSION).read_text()}
    return Source("wordnet", identity, lambda: synsets(folder / "usr/share/wordnet"), parts=2)


def synsets(folder: Path) -> Iterator[Document]:
    """(name, words and gloss, category) of every synset of WordNet's data files."""
    for pos in POS:
        for line in (folder / f"data.{pos}").read_text("latin-1").splitlines():
            fields, bar, gloss = line.partition(" | ")
            if bar and not line.startswith(" "):
                columns = fields.split(" ")
                words = ", ".join(columns[4 : 4 + 2 * int(columns[3], 16) : 2]).replace("_", " ")
                yield f"{pos}/{columns[0]}", f"{words}: {gloss.strip()}", CATEGORIES[int(columns[1])]


def verses(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `verses`: every verse in one translation of the Bible and in another, split by chapter.

    Args:
      args: `translations`, two names with a comma between them ("kjv,bbe").
      cache: not used.

    Raises:
      BadInput: not two translations, or one that is not installed.
    """
    del cache
    names = [name.strip() for name in args.get("translations", "kjv,bbe").split(",")]
    if len(names) != 2:
        raise BadInput(f"data.corpus_args.translations: verses want two, as in 'kjv,bbe', got {','.join(names)!r}")
    source, target = (packages.verses(name) for name in names)
    found = sorted(source.keys() & target.keys())
    identity = {name: packages.version(name) for name in names} | {"order": names}
    rows = [(f"{verse // 1000}", source[verse], target[verse]) for verse in found]
    return Source("verses", identity, lambda: iter(rows), parts=2)


def aligned(args: Mapping[str, str], cache: Path) -> Source:
    """The corpus `aligned`: line i of the one files with line i of the others; copies of a source line stay together.

    Args:
      args: `paths` and `target_paths`, patterns with commas between them; `encoding` ("utf-8").
      cache: not used.

    Raises:
      BadInput: no files, or not as many on both sides.
    """
    del cache
    sides = []
    for key in ALIGNED[:2]:
        if not args.get(key):
            raise BadInput(f"data.corpus_args.{key}: corpus aligned needs it, as in 'texts/*.de'")
        sides.append(expand(args[key], f"data.corpus_args.{key}"))
    if len(sides[0]) != len(sides[1]):
        raise BadInput(f"data.corpus_args: {len(sides[0])} files in paths and {len(sides[1])} in target_paths")
    states = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for side in sides for path in side]
    encoding = args.get("encoding", "utf-8")
    identity = {"sha256": digest([*states, encoding])}
    return Source("aligned", identity, lambda: _lines(sides[0], sides[1], encoding), parts=2)


def _lines(sources: list[Path], targets: list[Path], encoding: str) -> Iterator[Document]:
    for pair in zip(sources, targets, strict=True):
        sides = []
        for path in pair:
            with reading(path), opened(path) as file:
                sides.append(decode(file.read(), encoding, path).splitlines())
        if len(sides[0]) != len(sides[1]):
            raise BadInput(f"{pair[0]}: {len(sides[0]):,} lines, and {len(sides[1]):,} in {pair[1]}")
        for number, both in enumerate(zip(*sides, strict=True), 1):
            for path, line in zip(pair, both, strict=True):
                if not line.strip():
                    raise BadInput(f"{path}:{number}: an empty line, where a pair has two sides")
            yield both[0], *both
