"""`isoflop prepare`: a config's dataset built ahead of time; stop it anywhere and run it again."""

import json
import time
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict

from isoflop.cli import Output
from sweeps import design
from training.errors import BadInput

SUMMARY = "build the shards of a config's dataset ahead of time; resumable"
EXAMPLE = """
isoflop prepare --config=configs/lm/demo.py
isoflop prepare --config=configs/lm/small.py --config.data.tokenizer=bpe:4096
isoflop prepare --config=configs/lm/small.py --config.data.corpus=files --config.data.corpus_args.paths='texts/*.txt'
"""
CONFIG = True


def define(flags: absl_flags.FlagValues) -> None:
    """The flags of the command."""
    absl_flags.DEFINE_boolean(
        "verify", False, "Hash every file of what is there, also of large stores.", flag_values=flags
    )


def run(flags: absl_flags.FlagValues, args: list[str]) -> Output:
    """Prepare every data section that the run, or the points of the sweep, will read."""
    if args:
        raise BadInput(f"prepare takes no operands, got {args[0]!r}")
    found = [PREPARERS[task](data, bool(flags["verify"].value)) for task, data in sections(flags["config"].value)]
    return Output({"stores": found}, _text(found))


def sections(config: Any) -> list[tuple[str, Any]]:
    """The task and the section `data` of a run, or the different ones among the points of a sweep.

    Raises:
      BadInput: a task without text, or a point with an unknown key.
    """
    base = config.base if "design" in config else config
    if base.task not in PREPARERS:
        raise BadInput(f"task: prepare knows {', '.join(PREPARERS)}, not {base.task!r}")
    different: dict[str, Any] = {}
    for point in design.points(config.design) if "design" in config else [{}]:
        data = ConfigDict(base.data.to_dict())
        own = {key.removeprefix("data."): value for key, value in point.items() if key.startswith("data.")}
        try:
            data.update_from_flattened_dict(own)
        except (KeyError, TypeError) as error:
            raise BadInput(f"design: {error}") from None
        different.setdefault(json.dumps(data.to_dict(), sort_keys=True), data)
    return [(base.task, data) for data in different.values()]


def _text_store(data: Any, verify: bool) -> dict[str, Any]:
    from lm import tokens

    start = time.perf_counter()
    store = tokens.prepare(data, verify=verify)
    splits = {name: store.split(name) for name in ("train", "eval")}
    return {
        "path": str(store.path) if isinstance(store, tokens.TokenStore) else None,
        "seconds": round(time.perf_counter() - start, 3),
        **{key: value for key, value in store.facts().items() if not key.endswith("_tokens")},
        "splits": {
            name: {"documents": split.num_documents, "tokens": split.num_tokens, "bytes": split.num_bytes}
            for name, split in splits.items()
        },
    }


PREPARERS = {"lm": _text_store}


def _text(found: list[dict[str, Any]]) -> Any:
    from rich.console import Group
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("corpus", "tokenizer", "split", "documents", "tokens", "bytes", "hash"):
        table.add_column(name, justify="right" if name in ("documents", "tokens", "bytes") else "left")
    for store in found:
        for name, split in store["splits"].items():
            counts = ("endless" if count is None else f"{count:,}" for count in split.values())
            table.add_row(store["corpus"], store["tokenizer"], name, *counts, store["data_hash"][:12])
    places = (f"{store['path']} ({store['seconds']:.1f} s)" for store in found if store["path"])
    return Group(table, "", *places)
