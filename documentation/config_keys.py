"""The reference of config keys: type and default of each from the code, its meaning from the comment beside it.

A meaning is the first of these that there is: a row of `documentation.config_meanings`; the comment beside or above the key
in the function that declares it; the attribute of that name in the docstring of a class that has it as a field.
"""

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from documentation.config_meanings import MEANINGS
from documentation.markdown import code, table
from lm import corpora, decoder, encoder, encoder_decoder, models as lm_models, recurrent, task as lm_task, tokens
from training import defaults as engine
from training.nets import block_config
from training.registry import ModelKind
from vision import augment, convnet, datasets, mixer, mlp, models as vision_models, resnet, task as vision_task, vit

# Functions that declare keys, with the section that they fill.
DECLARED: dict[str, tuple[tuple[str, Callable[[], ConfigDict]], ...]] = {
    "engine": (("", engine.defaults),),
    "lm": (("", lm_task.defaults), ("model", lm_models.defaults), ("data", tokens.defaults)),
    "vision": (("", vision_task.defaults), ("model", vision_models.defaults), ("data", datasets.defaults)),
}
# Classes with the fields that keys set, described in their docstrings.
DESCRIBED: dict[str, tuple[type, ...]] = {
    "engine": (),
    "lm": (
        block_config.BlockConfig,
        decoder.Decoder,
        encoder.Encoder,
        encoder_decoder.EncoderDecoder,
        recurrent.Recurrent,
    ),
    "vision": (
        block_config.BlockConfig,
        augment.Augment,
        vit.ViT,
        mixer.Mixer,
        mlp.MLP,
        convnet.ConvNet,
        resnet.ResNet,
    ),
}


def comments_of(function: Callable[[], ConfigDict], prefix: str = "") -> dict[str, str]:
    """Comments beside or above the keys of the dictionary that a function writes down, by dotted key."""
    source = textwrap.dedent(inspect.getsource(function))
    remarks = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    alone = {number for number, line in enumerate(source.splitlines(), 1) if line.strip().startswith("#")}
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args)
    whole = next(call.args[0] for call in calls if isinstance(call.args[0], ast.Dict))
    out = {}
    for name, first, last in _entries(whole, prefix):
        start = first
        while start - 1 in alone:
            start -= 1
        lines = [line for line in range(start, last + 1) if line in remarks and (line < first or line not in alone)]
        if lines:
            out[name] = " ".join(remarks[line] for line in lines)
    return out


def _entries(node: ast.expr, path: str) -> Iterator[tuple[str, int, int]]:
    """Dotted key, first and last line of what is said of it, of every entry of nested dictionaries on lines of its own."""
    assert isinstance(node, ast.Dict)
    for key, value in zip(node.keys, node.values, strict=True):
        if isinstance(key, ast.Constant):
            name = f"{path}.{key.value}".lstrip(".")
            section = isinstance(value, ast.Dict)
            yield name, key.lineno, key.lineno if section else value.end_lineno or key.lineno
            if section and value.end_lineno != key.lineno:
                yield from _entries(value, name)


def attributes(described: type) -> dict[str, str]:
    """The attributes that the docstring of a class describes."""
    _, _, section = (inspect.getdoc(described) or "").partition("Attributes:\n")
    section = section.split("\n\n")[0]
    found = re.findall(r"^ {2,4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section, re.M)
    return {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}


def flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Dotted key, type and default of every leaf."""
    for key in config:
        name, value = f"{prefix}{key}", config[key]
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{name}.")
        else:
            kind = config.get_type(key)
            yield name, getattr(kind, "__name__", str(kind)), value


def remarks_of(family: str) -> dict[str, str]:
    """Comments of the keys and sections of the engine or of a family."""
    return {key: text for prefix, function in DECLARED[family] for key, text in comments_of(function, prefix).items()}


def keys(family: str) -> dict[str, tuple[str, Any, str]]:
    """Type, default and meaning of the keys of the engine or of a family."""
    (_, whole), *_ = DECLARED[family]
    fields = {name: text for described in DESCRIBED[family][::-1] for name, text in attributes(described).items()}
    found = MEANINGS[family] | {key: text for key, text in remarks_of(family).items() if key not in MEANINGS[family]}
    return {
        key: (kind, default, found.get(key) or fields.get(key.rpartition(".")[2], ""))
        for key, kind, default in flat(whole())
    }


def section(family: str) -> str:
    """The keys as tables, one a section of the config; what is said of a section stands above its table."""
    remarks = remarks_of(family)
    groups: dict[str, list[tuple[str, ...]]] = {}
    for key, (kind, default, meaning) in keys(family).items():
        rows = groups.setdefault(key.rpartition(".")[0], [])
        rows.append((f"`{key}`", kind, code("None" if default is None else repr(default)), meaning))
    parts = []
    for group, rows in sorted(groups.items(), key=lambda item: bool(item[0])):
        parts.append(f"### {family}: `{group}`" if group else f"### {family}: the run")
        parts += [f"{remarks[group][0].upper()}{remarks[group][1:]}"] if group in remarks else []
        parts.append(table(("key", "type", "default", "meaning"), rows))
    return "\n\n".join(parts)


def models_of(kinds: Mapping[str, ModelKind]) -> Iterator[tuple[str, str]]:
    """Name and keys of every model of a family, with the defaults."""
    for name, kind in kinds.items():
        yield (
            name,
            ", ".join(f"`{key}={value!r}`" if value is not None else f"`{key}`" for key, value in kind.options.items()),
        )


def models() -> str:
    """The models of both families; a key without a value follows from the size or the width."""
    parts = []
    for title, kinds in (("Language models", lm_models.KINDS), ("Images", vision_models.KINDS)):
        parts += [
            f"### {title}: `model.name`",
            table(("name", "keys and their defaults"), [(f"`{n}`", k) for n, k in models_of(kinds)]),
        ]
    return "\n\n".join(parts)


def corpora_table() -> str:
    """The corpora that come with the project."""
    rows = [
        (f"`{name}`", row.summary, ", ".join(f"`{key}`" for key in row.arguments))
        for name, row in corpora.CORPORA.items()
    ]
    return table(("corpus", "what it is", "arguments"), rows)
