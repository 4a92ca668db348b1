"""The interface of a launcher: something that starts workers on a sweep directory, and waits for them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sweeps.sweep_dir import Sweep
from training.errors import BadInput, nearest

OnEvent = Callable[[dict[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """How to launch.

    Attributes:
        workers: how many; None: as many as the launcher finds right.
        run_batch: how many runs of a shape a worker trains as one program; None: as many as pay (`sweeps.run_batching`).
        launcher_options: options of the cluster software behind the launcher, by its own names.
        detach: return once everything is submitted.
        command: starts a local worker.
    """

    workers: int | None = None
    run_batch: int | None = None
    launcher_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    detach: bool = False
    command: Sequence[str] | None = None


class Launcher(Protocol):
    """A module such as `sweeps.launch.local`."""

    def check(self, options: Options) -> None:
        """Raise BadInput where an option is wrong, or where the launcher cannot be used here, and how to get it."""
        ...

    def placements(self, sweep: Sweep, run_ids: list[str], options: Options) -> Sequence[Any]:
        """Where each worker will run, for people: one a worker.

        Args:
            sweep: the sweep directory.
            run_ids: the points to be run.
            options: how.
        """
        ...

    def launch(self, sweep: Sweep, run_ids: list[str], options: Options, on_event: OnEvent, signals: list[int]) -> int:
        """Run points of a sweep directory to their ends.

        Args:
            sweep: the sweep directory, on a file system that all workers share.
            run_ids: the points.
            options: how.
            on_event: called with every event, each with the `worker` it came from, and once a turn with {"event": "tick"}.
            signals: holds the signals that came; after one, workers save and leave, after another they are ended.

        Returns:
            How many runs ended.
        """
        ...


def parse_options(options: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of a launcher's own options.

    Args:
        options: by name, as text.
        kinds: of each known one, what makes its value.

    Raises:
        BadInput: one is unknown, or not of its kind.
    """
    values = {}
    for name, text in options.items():
        if name not in kinds:
            raise BadInput(f"--launcher_option: no option {name!r}{nearest(name, kinds)} (known: {', '.join(kinds)})")
        try:
            values[name] = kinds[name](text)
        except ValueError:
            raise BadInput(f"--launcher_option {name}: not {kinds[name].__name__}: {text!r}") from None
    return values
