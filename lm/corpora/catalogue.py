"""Text datasets of TFDS's catalogue (lm1b, c4, wiki40b, ...), prepared and read without TensorFlow where TFDS can."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.corpora.files import cut
from lm.corpora.source import Document, Source
from training import tfds
from training.errors import BadInput, nearest

if TYPE_CHECKING:
    from lm.corpora.builder import Documents

ARGUMENTS = ("split", "text_key", "target_key", "separator", "data_dir")


def identity(name: str, args: Mapping[str, str]) -> Any:
    """What a catalogue name stands for, without importing TFDS."""
    chosen = {key: value for key, value in args.items() if key != "data_dir"}
    return {"tfds": tfds.release(), "name": name, **chosen}


def documents(name: str, args: Mapping[str, str], known: Mapping[str, Any], cache: Path) -> "Documents":
    """The documents of a catalogue dataset: one an example, or its parts.

    Args:
      name: as in TFDS, "wiki40b/en" or "lm1b:1.1.0".
      args: `split` in TFDS's notation ("train"), `text_key`, the feature that holds the text ("text", or the only one),
        `target_key`, the feature of the other side of pairs: a text, or a label; `separator`, what parts the documents of an
        example, `data_dir`, where TFDS keeps the data.
      known: our own corpora, to guess what a mistyped name meant.
      cache: where parts of examples are kept.

    Raises:
      BadInput: no such dataset or feature, or it needs TensorFlow, Beam or a download that cannot be had.
    """
    from lm.corpora import builder as ours

    builder = tfds.builder("corpus", name, args.get("data_dir"), [*known, "markov", "store"])
    feature = text_feature(name, builder.info.features, args.get("text_key"))
    tfds.prepare("corpus", name, builder)
    data = tfds.source("corpus", name, builder, args.get("split", "train"))
    if "target_key" in args:
        target, names = target_feature(name, builder.info.features, args["target_key"])
        return ours.Documents(name, data, [feature, target], group=feature, names=names)
    whole = ours.Documents(name, data, [feature])
    if "separator" not in args:
        return whole
    parts = Source(
        name.replace("/", "_").replace(":", "_"), identity(name, args), lambda: _parts(whole, args["separator"])
    )
    return ours.prepare(parts, cache / "corpora")


def text_feature(name: str, features: Any, wanted: str | None) -> str:
    """The path of the feature that holds the text: the wanted one, else "text", else the only Text feature.

    Raises:
      BadInput: there is none, or a choice.
    """
    found = _text_features(features)
    if wanted is None and ("text" in found or len(found) == 1):
        return "text" if "text" in found else found[0]
    if wanted in found:
        return wanted
    if wanted is None and not found:
        raise BadInput(f"corpus {name}: has no text feature (has {', '.join(features)})")
    raise BadInput(
        f"data.corpus_args.text_key: corpus {name} has the text features {', '.join(found) or 'none'}"
        + (nearest(wanted, found) if wanted else "; choose one")
    )


def target_feature(name: str, features: Any, wanted: str) -> tuple[str, tuple[str, ...] | None]:
    """The path of the feature that holds the other side of pairs, and the names of its classes where it is a label.

    Raises:
      BadInput: there is no such text or label.
    """
    from tensorflow_datasets import features as kinds

    labels = [key for key, feature in features.items() if isinstance(feature, kinds.ClassLabel)]
    known = [*_text_features(features), *labels]
    if wanted not in known:
        raise BadInput(
            f"data.corpus_args.target_key: corpus {name} has the texts and labels {', '.join(known)}"
            + nearest(wanted, known)
        )
    return wanted, tuple(features[wanted].names) if wanted in labels else None


def _text_features(features: Any, prefix: str = "") -> list[str]:
    from tensorflow_datasets import features as kinds

    found = []
    for key, feature in features.items():
        if isinstance(feature, kinds.FeaturesDict):
            found += _text_features(feature, f"{prefix}{key}/")
        elif isinstance(feature, kinds.Text):
            found.append(f"{prefix}{key}")
    return found


def _parts(whole: "Documents", separator: str) -> Iterator[Document]:
    for index in range(len(whole)):
        yield from cut(str(index), whole.texts([index])[0], separator)
