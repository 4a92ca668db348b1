"""Text datasets of TFDS's catalogue (lm1b, c4, wiki40b, ...), prepared and read without TensorFlow where TFDS can."""

import importlib.metadata
import importlib.util
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from lm.corpora.files import cut
from lm.corpora.source import Document, Source
from training.errors import BadInput, nearest

if TYPE_CHECKING:
    from lm.corpora.builder import Documents

ARGUMENTS = ("split", "text_key", "separator", "data_dir")


def identity(name: str, args: Mapping[str, str]) -> Any:
    """What a catalogue name stands for, without importing TFDS: its release fixes the version that a name without one
    means."""
    chosen = {key: value for key, value in args.items() if key != "data_dir"}
    return {"tfds": importlib.metadata.version("tensorflow-datasets"), "name": name, **chosen}


def documents(name: str, args: Mapping[str, str], known: Mapping[str, Any], cache: Path) -> "Documents":
    """The documents of a catalogue dataset: one an example, or its parts.

    Args:
      name: as in TFDS, "wiki40b/en" or "lm1b:1.1.0".
      args: `split` in TFDS's notation ("train"), `text_key`, the feature that holds the text ("text", or the only one),
        `separator`, what parts the documents of an example, `data_dir`, where TFDS keeps the data.
      known: our own corpora, to guess what a mistyped name meant.
      cache: where parts of examples are kept.

    Raises:
      BadInput: no such dataset or feature, or it needs TensorFlow, Beam or a download that cannot be had.
    """
    from lm.corpora import builder as ours

    with ours.quiet():
        builder = _builder(name, args, known)
        feature = text_feature(name, builder.info.features, args.get("text_key"))
        _prepare(name, builder)
        try:
            data = builder.as_data_source(split=args.get("split", "train"))
        except Exception as error:
            raise _refused(name, error) from None
    whole = ours.Documents(name, data, feature)
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


def _text_features(features: Any, prefix: str = "") -> list[str]:
    import tensorflow_datasets as tfds

    found = []
    for key, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            found += _text_features(feature, f"{prefix}{key}/")
        elif isinstance(feature, tfds.features.Text):
            found.append(f"{prefix}{key}")
    return found


def _builder(name: str, args: Mapping[str, str], known: Mapping[str, Any]) -> Any:
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # registers the older datasets, c4 and wiki40b among them

    try:
        return tfds.builder(name, data_dir=args.get("data_dir"), file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        guess = nearest(name, [*known, "markov", "store"]) or nearest(
            name.split("/")[0], tfds.list_builders(with_community_datasets=False)
        )
        raise BadInput(f"data.corpus: no corpus {name!r}{guess} (ours: {', '.join(known)}; else a TFDS name)") from None
    except Exception as error:
        raise _refused(name, error) from None


def _prepare(name: str, builder: Any) -> None:
    """Write a dataset's files unless they are there; says in one line what is missing where it cannot be."""
    import tensorflow_datasets as tfds

    if Path(builder.data_dir).exists():
        return
    if isinstance(builder, tfds.core.BeamBasedBuilder) and not importlib.util.find_spec("apache_beam"):
        raise BadInput(f"corpus {name}: TFDS prepares it with Apache Beam, which is not installed")
    for host in sorted({urlparse(url).hostname or "" for url in builder.url_infos or ()} - {""})[:1]:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            raise BadInput(
                f"corpus {name}: not in {builder.data_dir}, and {host} cannot be reached to download it"
            ) from None
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise _refused(name, error) from None


def _refused(name: str, error: Exception) -> BadInput:
    """One line for whatever TFDS raised."""
    if isinstance(error, ImportError):
        return BadInput(f"corpus {name}: TFDS needs the package {error.name or error}, which is not installed")
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return BadInput(f"corpus {name}: TFDS cannot prepare it: {type(error).__name__}: {first[:200]}")


def _parts(whole: "Documents", separator: str) -> Iterator[Document]:
    for index in range(len(whole)):
        yield from cut(str(index), whole.texts([index])[0], separator)
