"""Datasets of TFDS's catalogue, prepared and opened without TensorFlow where TFDS can."""

import ast
import contextlib
import importlib.metadata
import importlib.util
import inspect
import io
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from absl import logging as absl_logging

from training.errors import Absent, BadInput, nearest


def release() -> str:
    """The version of TFDS, without importing it: it fixes what a dataset's name without a version means."""
    return importlib.metadata.version("tensorflow-datasets")


def builder(what: str, name: str, data_dir: str | None, known: Iterable[str]) -> Any:
    """The builder of a catalogue dataset.

    Args:
      what: what messages call it, "corpus" or "dataset"; `data.<what>` is the config key that names it.
      name: as in TFDS, "wiki40b/en" or "cifar10:3.0.2".
      data_dir: where TFDS keeps the data; None: its own default.
      known: names beside the catalogue, to guess what a mistyped one meant.

    Raises:
      BadInput: there is no such dataset, or it needs a package that is not there.
    """
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # these register the older datasets, c4, wiki40b and WMT among them
    import tensorflow_datasets.translate

    known = tuple(known)
    try:
        with quiet():
            return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError:
        listed = tfds.list_builders(with_community_datasets=False)
        guess = nearest(name, known) or nearest(name.split("/")[0], listed)
        raise BadInput(f"data.{what}: no {what} {name!r}{guess} (ours: {', '.join(known)}; else a TFDS name)") from None
    except Exception as error:
        raise refused(what, name, error) from None


def prepare(what: str, name: str, builder: Any) -> None:
    """Write a dataset's files unless they are there.

    Raises:
      Absent: it needs Beam, a package or a download that cannot be had.
    """
    import tensorflow_datasets as tfds

    if Path(builder.data_dir).exists():
        return
    if isinstance(builder, tfds.core.BeamBasedBuilder) and not importlib.util.find_spec("apache_beam"):
        raise Absent(f"{what} {name}: TFDS prepares it with Apache Beam, which is not installed")
    if not importlib.util.find_spec("tensorflow") and _reads_with_tensorflow(builder):
        raise Absent(
            f"{what} {name}: not in {builder.data_dir}, and TFDS prepares it with TensorFlow, which is not installed; "
            "nothing was downloaded (pip install tensorflow, or prepare it elsewhere and give that folder as data_dir)"
        )
    for host in sorted({urlparse(url).hostname or "" for url in builder.url_infos or ()} - {""})[:1]:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            raise Absent(
                f"{what} {name}: not in {builder.data_dir}, and {host} cannot be reached to download it"
            ) from None
    try:
        with quiet():
            builder.download_and_prepare()
    except Exception as error:
        raise Absent(str(refused(what, name, error))) from None


def _reads_with_tensorflow(builder: Any) -> bool:
    """Whether the code of a builder calls TensorFlow, which TFDS would find out after the download; False where its code
    cannot be read."""
    try:
        code = ast.parse(inspect.getsource(sys.modules[type(builder).__module__]))
    except (KeyError, OSError, TypeError):
        return False
    return any(isinstance(node, ast.Name) and node.id == "tf" for node in ast.walk(code))


def source(what: str, name: str, builder: Any, split: str, decoders: Any = None) -> Any:
    """The examples of a prepared dataset's split, by index.

    Args:
      what, name: as in `builder`.
      builder: of the dataset.
      split: in TFDS's notation, as in "train[:10%]".
      decoders: as TFDS has them; None: each feature's own.

    Raises:
      BadInput: no such split.
    """
    try:
        with quiet():
            return builder.as_data_source(split=split, decoders=decoders)
    except Exception as error:
        raise refused(what, name, error) from None


def refused(what: str, name: str, error: Exception) -> BadInput:
    """One line for whatever TFDS raised."""
    if isinstance(error, ImportError):
        found = re.search(r"No module named '([\w.]+)'", str(error))
        package = error.name or (found[1] if found else error)
        return BadInput(f"{what} {name}: TFDS needs the package {package}, which is not installed")
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return BadInput(f"{what} {name}: TFDS cannot prepare it: {type(error).__name__}: {first[:200]}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the notes that TFDS writes for interactive use; errors still come as exceptions.

    Nor does a builder look for its description in TFDS's bucket: that is off by default, but leaves an empty temporary
    folder behind.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    tfds.core.DatasetInfo.initialize_from_bucket = lambda self: None
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
