"""A bar on the terminal while a command works, with the time that it has taken; nothing where there is no terminal."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a bar on standard error until the block ends, and no trace of it afterwards; logs and pipes get nothing.

    Args:
        what: is being done, as in "fitting".
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True, refresh_per_second=4) as bar:
        bar.add_task(what, total=None)
        yield
