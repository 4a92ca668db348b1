"""What a launcher is: something that starts workers on a sweep directory, and waits for them."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sweeps import store
from training.errors import BadInput, nearest

View = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to launch.

    Attributes:
      workers: how many; None: as many as the launcher finds right.
      pack: how many runs of a shape a worker trains as one program; None: what `sweeps.pack.choose` finds.
      engine: options of the engine behind the launcher, by its own names.
      detach: return once everything is submitted.
      command: starts a local worker.
    """

    workers: int | None = None
    pack: int | None = None
    engine: Mapping[str, str] = dataclasses.field(default_factory=dict)
    detach: bool = False
    command: Sequence[str] | None = None


class Launcher(Protocol):
    """A module such as `sweeps.launch.local`."""

    def check(self, options: Options) -> None:
        """Raise BadInput where an option is wrong, or where the engine is not here, and how to get it."""
        ...

    def places(self, sweep: store.Sweep, left: list[str], options: Options) -> Sequence[Any]:
        """One a worker: what people are told of where it is."""
        ...

    def launch(self, sweep: store.Sweep, left: list[str], options: Options, view: View, signals: list[int]) -> int:
        """Run points of a sweep directory to their ends.

        Args:
          sweep: the sweep directory, which all workers see.
          left: the points.
          options: how.
          view: called with every event, each with the `worker` it came from, and once a turn with {"event": "tick"}.
          signals: holds the signals that came; after one, workers save and leave, after another they are ended.
        Returns:
          How many runs ended.
        """
        ...


def parsed(engine: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of an engine's options.

    Args:
      engine: by name, as text.
      kinds: of each that is known, what makes its value.
    Raises:
      BadInput: one is unknown, or not of its kind.
    """
    values = {}
    for name, text in engine.items():
        if name not in kinds:
            raise BadInput(f"--engine: no option {name!r}{nearest(name, kinds)} (known: {', '.join(kinds)})")
        try:
            values[name] = kinds[name](text)
        except ValueError:
            raise BadInput(f"--engine {name}: not {kinds[name].__name__}: {text!r}") from None
    return values


def elsewhere(
    path: str, run_ids: Sequence[str], session: str, pack: int | None, workers: int
) -> tuple[int | None, bool]:
    """Be a worker in a process that an engine started; returns the signal that stopped it, None where none did, and
    whether any run moved meanwhile."""
    from sweeps import placement, worker

    kind, _ = placement.accelerators()
    cores = placement.usable_cores()
    if kind == "cpu" and len(cores) == 1:
        os.environ.update(placement.Place(cores=tuple(cores)).environment())

    moved = []

    def report(event: str, **values: Any) -> None:
        moved.extend([event] if event in ("progress", "end") and not moved else [])
        if event != "progress":
            print(json.dumps({"event": event, **values}), flush=True)

    return worker.serve(Path(path), run_ids, session, worker.Packing(pack, workers), report), bool(moved)
