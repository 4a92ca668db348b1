"""Which base config each run of a sweep directory was planned with, and in which keys these configs differ.

A sweep directory keeps what was ever planned: where the config file changed in between, it holds runs of two bases, which
are no repetitions of one another.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sweeps.sweep_dir import Sweep
from sweeps.untrusted_files import printable

RECORDED = ("seed",)  # keys that repetitions differ in, and that every record holds
MAX_KEYS = 3  # named in a warning
MAX_VALUES = 4  # of each of them


@dataclasses.dataclass(frozen=True)
class BaseConfigs:
    """The base configs of a sweep.

    Attributes:
        of_run: the name of the base config of each run, 12 hexadecimal digits.
        differing: the keys in which base configs differ, with the value of each by its name. Left out are keys that
            change no result, and those that every point overrides.
    """

    of_run: Mapping[str, str]
    differing: Mapping[str, Mapping[str, Any]]

    def values(self, run_id: str) -> dict[str, Any]:
        """The values of the differing keys in the base config of a run."""
        return {key: values[self.of_run[run_id]] for key, values in self.differing.items()}

    def warning(self) -> str | None:
        """One line that says by how many base configs the runs were planned, and how they differ; None if by one."""
        counts = Counter(self.of_run.values())
        names = [name for name in next(iter(self.differing.values()), {}) if counts[name]]
        if len(names) < 2:
            return None
        keys = [self._described(key) for key in list(self.differing)[:MAX_KEYS]]
        more = len(self.differing) - len(keys)
        bases = ", ".join(f"{name} ({counts[name]} runs)" for name in names)
        return (
            f"the runs are of {len(names)} base configs, {bases}, which differ in {', '.join(keys)}"
            f"{f' and {more} more keys' if more else ''}: tell them apart by the column base_config"
        )

    def _described(self, key: str) -> str:
        values = list(dict.fromkeys(map(json.dumps, self.differing[key].values())))
        shown = ", ".join(printable(value, 40) for value in values[:MAX_VALUES])
        return f"{printable(key)} ({shown}{', ...' if len(values) > MAX_VALUES else ''})"


def compare(sweep: Sweep) -> BaseConfigs:
    """Compare the base configs of a sweep.

    Keys that only some of them have are left out: another version of the code has other keys, and defaults for them.
    """
    counts = Counter(entry.base for entry in sweep.entries.values())
    used = sorted(counts, key=[*sweep.bases, *counts].index)  # the oldest first
    flat = {name: flatten(sweep.bases.get(name)) for name in used}
    common = [key for key in flat[used[0]] if all(key in config for config in flat.values())] if used else []
    overridden = set.intersection(*(set(entry.overrides) for entry in sweep.entries.values())) if used else set()
    ignored = (*RECORDED, *sweep.indifferent, *overridden)
    sections = tuple(f"{key}." for key in ignored)
    differing = {}
    for key in common:
        texts = {name: json.dumps(config[key], sort_keys=True) for name, config in flat.items()}
        if len(set(texts.values())) > 1 and key not in ignored and not key.startswith(sections):
            differing[key] = texts
    # Bases that agree in all of these keys are one, and have the name of the first.
    first: dict[tuple[str, ...], str] = {}
    name_of = {name: first.setdefault(tuple(texts[name] for texts in differing.values()), name) for name in used}
    return BaseConfigs(
        {run_id: name_of[entry.base] for run_id, entry in sweep.entries.items()},
        {key: {name: flat[name][key] for name in first.values()} for key in differing},
    )


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys; empty for anything else."""
    flat: dict[str, Any] = {}
    for key, value in tree.items() if isinstance(tree, dict) else ():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
