"""`isoflop prepare`: a config's dataset built ahead of time; stop it anywhere and run it again."""

import json
import time
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict
from rich.console import Group
from rich.table import Table

from isoflop.cli import Output
from sweeps import design
from training import task
from training.errors import BadInput

EXAMPLE = """
isoflop prepare --config=configs/lm/demo.py
isoflop prepare --config=configs/lm/small.py --config.data.tokenizer=bpe:4096
isoflop prepare --config=configs/lm/small.py --config.data.corpus=files --config.data.corpus_args.paths='texts/*.txt'
"""
WAITING = "preparing data"
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
    stores = []
    for config in sections(flags["config"].value):
        start = time.perf_counter()
        prepared = task.resolve(config.task).prepare(config, bool(flags["verify"].value))
        stores.append({**prepared, "seconds": round(time.perf_counter() - start, 3)})
    return Output({"stores": stores}, _text(stores))


def sections(config: Any) -> list[ConfigDict]:
    """The run, or one for each of the different sections `data` among the points of a sweep.

    Raises:
        BadInput: a point with an unknown key.
    """
    base = config.base if "design" in config else config
    different: dict[str, ConfigDict] = {}
    for point in design.points(config.design) if "design" in config else [{}]:
        run = ConfigDict(base.copy_and_resolve_references())
        try:
            run.update_from_flattened_dict({key: value for key, value in point.items() if key.startswith("data.")})
        except (KeyError, TypeError) as error:
            raise BadInput(f"design: {error}") from None
        different.setdefault(json.dumps(run.data.to_dict(), sort_keys=True, default=list), run)
    return list(different.values())


def _text(stores: list[dict[str, Any]]) -> Group:
    table = Table(box=None, pad_edge=False)
    counted = list(next(iter(stores[0]["splits"].values())))
    for name in ("data", "split", *counted, "hash"):
        table.add_column(name, justify="right" if name in counted else "left")
    for store in stores:
        for name, split in store["splits"].items():
            counts = ("endless" if count is None else f"{count:,}" for count in split.values())
            table.add_row(store["name"], name, *counts, store["data_hash"][:12])
    paths = (f"{store['path']} ({store['seconds']:.1f} s)" for store in stores if store["path"])
    return Group(table, "", *paths)
