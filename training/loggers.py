"""Optional loggers of metrics: TensorBoard, Weights & Biases, the JAX profiler. The run's own files stay the truth."""

import contextlib
import functools
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from training import extras
from training.errors import BadInput
from training.metrics import Logger


@contextlib.contextmanager
def tensorboard(workdir: Path) -> Iterator[Logger]:
    """Write event files under `<workdir>/tensorboard`, from the first logged step on.

    Raises:
      BadInput: tensorboardX is not installed.
    """
    library = _library("tensorboardX", "tensorboard")
    with contextlib.ExitStack() as held:

        @functools.cache
        def writer() -> Any:
            opened = library.SummaryWriter(str(workdir / "tensorboard"))
            held.callback(opened.close)
            return opened

        def observe(step: int, metrics: Mapping[str, object]) -> None:
            for name, value in _numbers(metrics).items():
                writer().add_scalar(name, value, step)

        yield observe


@contextlib.contextmanager
def wandb(workdir: Path, config: Mapping[str, object], name: str) -> Iterator[Logger]:
    """Log to Weights & Biases from the first logged step on, as the environment says (WANDB_PROJECT, ...).

    A run that goes on keeps its id.

    Raises:
      BadInput: wandb is not installed.
    """
    library = _library("wandb", "wandb")
    with contextlib.ExitStack() as held:

        @functools.cache
        def run() -> Any:
            opened = library.init(dir=str(workdir), config=config, id=name, name=name, resume="allow")
            held.callback(opened.finish)
            return opened

        yield lambda step, metrics: run().log(_numbers(metrics), step=step)


@contextlib.contextmanager
def profiler(workdir: Path) -> Iterator[Logger]:
    """Write a JAX profile of the steps between the first two logged ones to `<workdir>/profile`."""
    state = {"running": False, "done": False}

    def stop() -> None:
        if state["running"]:
            jax.profiler.stop_trace()
            state.update(running=False, done=True)

    def observe(step: int, metrics: Mapping[str, object]) -> None:
        del step, metrics
        if state["running"]:
            stop()
        elif not state["done"]:
            jax.profiler.start_trace(str(workdir / "profile"))
            state["running"] = True

    try:
        yield observe
    finally:
        stop()


def _library(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise BadInput(f"--{extra}: {extras.missing(module)}") from error


def _numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
