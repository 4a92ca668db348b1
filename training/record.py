"""The run directory: what a run leaves behind, in plain files that are whole at every moment.

`config.json` (resolved), `environment.json`, `metrics.jsonl` (append only; after a resume the last attempt wins),
`checkpoints/`, and `result.json`, which exists only when the run has ended.
"""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from training import allocator, async_sgd, cost as costs, identity, replicas
from training.checkpoint import FOLDER
from training.cores import compute_threads
from training.errors import BadInput
from training.files import clear_temporaries, locked, read_json, read_object, write_json
from training.lines import read_metrics

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections", "numpy")
STATUSES = ("completed", "diverged", "failed")


class RunDirectory:
    """The files of one run, held by one live process at a time; on other hosts of the same run it writes nothing."""

    def __init__(self, path: Path):
        self.path = path
        self.attempt = 0
        self._metrics: Any = None

    def result(self) -> dict[str, Any] | None:
        """The result, if the run has ended."""
        path = self.path / "result.json"
        return read_json(path) if path.exists() else None

    def check_data(self, environment: dict[str, Any]) -> None:
        """Raise BadInput where a run would go on with other data than it began with."""
        path = self.path / "environment.json"
        before = read_object(path) if path.exists() else {}
        for key in ("data_hash", "tokenizer_hash"):
            old, new = before.get(key, environment.get(key)), environment.get(key)
            if old != new:
                raise BadInput(f"workdir {self.path}: {key} was {old} and is now {new}: the data has changed")

    def start(self, config: ConfigDict, environment: dict[str, Any], keep: Callable[[Path], None]) -> None:
        """Begin an attempt, once nothing can be refused any more: note config, environment and what the task says to
        `keep`, open the metrics."""
        if jax.process_index():
            return
        clear_temporaries(self.path)
        write_json(self.path / "config.json", json.loads(config.to_json_best_effort()))
        previous = read_metrics(self.path, every_attempt=True)
        self.attempt = 1 + max((line["attempt"] for line in previous), default=-1)
        write_json(self.path / "environment.json", self._with_earlier_threads(environment))
        keep(self.path)
        torn = self.path / "metrics.jsonl"
        cut = torn.exists() and torn.stat().st_size > 0 and not torn.read_bytes().endswith(b"\n")
        self._metrics = open(torn, "a", buffering=1)  # noqa: SIM115 - held for the length of the run
        if cut:
            self._metrics.write("\n")

    def _with_earlier_threads(self, environment: dict[str, Any]) -> dict[str, Any]:
        """An environment whose `threads` are those of every attempt at the run, the first one first."""
        path = self.path / "environment.json"
        earlier = (read_object(path) if path.exists() else {}).get("threads", [])
        return environment | {"threads": [*earlier, compute_threads()]}

    def log(self, step: int, **values: Any) -> None:
        """Append one line of metrics; what is not finite becomes null."""
        if self._metrics is not None:
            plain = {name: finite(value) for name, value in values.items()}
            self._metrics.write(json.dumps({"step": step, "attempt": self.attempt, **plain}) + "\n")

    def finish(self, result: dict[str, Any]) -> None:
        """Write `result.json`: from here on the run has ended."""
        if not jax.process_index():
            write_json(self.path / "result.json", {name: finite(value) for name, value in result.items()})

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()


@contextlib.contextmanager
def open_run(path: Path, config: ConfigDict, allow_change: tuple[str, ...] = ()) -> Iterator[RunDirectory]:
    """Hold the directory of a run, made on first use; what is raised before the run begins leaves nothing of it.

    Args:
      config: resolved.
      allow_change: semantic keys by which a resumed run may differ from the one that began.
    Raises:
      BadInput: a live process holds it, or another config began it (the differing keys are named) or ended it.
    """
    if path.exists() and not path.is_dir():
        raise BadInput(f"workdir {path} is a file")
    lock, made = contextlib.nullcontext(), [folder for folder in (path, *path.parents) if not folder.exists()]
    if not jax.process_index():
        lock = locked(path / "lock", f"workdir {path} is locked by a live run")
    with lock:
        directory = RunDirectory(path)
        try:
            _check_config(path, config, allow_change)
            yield directory
        except BaseException:
            _leave_nothing(path, made)
            raise
        finally:
            directory.close()


def _leave_nothing(path: Path, made: list[Path]) -> None:
    """Where a run ended before it began: remove its lock, and the folders that were made for it."""
    if jax.process_index() or (path / "config.json").exists():
        return
    (path / "lock").unlink()
    for folder in (path / FOLDER, *made):
        with contextlib.suppress(OSError):  # something else came to lie there
            folder.rmdir()


def _check_config(path: Path, config: ConfigDict, allow_change: tuple[str, ...]) -> None:
    if not (path / "config.json").exists():
        return
    before = ConfigDict(read_object(path / "config.json", "task", "derived"))
    identity.check_schema(before.derived, f"workdir {path}")
    old, new = identity.semantic(before), identity.semantic(config)
    ended = (path / "result.json").exists()
    changes = identity.changes(old, new)
    fixed = [] if ended else [key for key in changes if identity.under(key, identity.FIXED)]
    changed = fixed or [key for key in changes if ended or key not in allow_change]
    if not changed:
        return
    old, new = (identity.flatten(each.to_dict()) | keys for each, keys in ((before, old), (config, new)))
    shown = ", ".join(f"{key} ({old.get(key)} -> {new.get(key)})" for key in changed[:5])
    shown += " ..." if len(changed) > 5 else ""
    if fixed:
        raise BadInput(
            f"workdir {path}: {shown}: a run that goes on keeps its batches and their order; another --workdir"
        )
    if ended:
        raise BadInput(
            f"workdir {path}: the run has ended with another {shown}; another --workdir (--allow_change is for a run "
            "that goes on)"
        )
    raise BadInput(
        f"workdir {path} holds another run: {shown}; another --workdir, or --allow_change={','.join(changed)}"
    )


def environment(config: ConfigDict, mesh: jax.sharding.Mesh, **facts: Any) -> dict[str, Any]:
    """Versions, devices, precision, flags and git state: what a number depends on beside its config."""
    devices = list(mesh.devices.flat)
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "mesh": dict(mesh.shape),
        "precision": config.precision.to_dict(),
        "flags": {name: os.environ[name] for name in ("XLA_FLAGS", "JAX_PLATFORMS") if name in os.environ},
        "allocator": allocator.kept(),
        "git_revision": git_revision(),
        "warnings": warnings_of(),
        **facts,
    }


def warnings_of() -> list[str]:
    """What should be said loudly of this machine: an accelerator that is present but unused."""
    unused = jax.default_backend() == "cpu" and (
        any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev").glob("accel[0-9]*"))
    )
    return ["an accelerator is present but JAX runs on the CPU: install the extra for it"] if unused else []


@functools.cache  # a process computes with what it has loaded
def versions() -> dict[str, str]:
    """The installed versions of the packages that a number depends on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def git_revision() -> str | None:
    """The commit of the code, "+dirty" where tracked files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+dirty" if dirty else commit


def result(
    config: ConfigDict,
    cost: costs.Cost,
    facts: dict[str, Any],
    env: dict[str, Any],
    steps: int,
    measured: dict[str, Any],
) -> dict[str, Any]:
    """The record of a run that ended after `steps` steps; `measured` holds status, losses and times.

    Every convention of N and C is there, so that the analyst chooses.
    """
    examples = steps * config.batch_size
    tokens = examples * cost.tokens_per_example
    available = facts.pop("available_tokens", None)
    exact = examples * cost.flops_exact
    seconds = measured["train_seconds"]
    peak = costs.peak_flops(env["device_kind"], config.precision.compute, config.precision.matmul)
    return {
        **facts,
        "run_id": config.derived.run_id,
        "parent": config.derived.parent,
        "parent_tokens": config.derived.parent_tokens,
        "pretrained": int(config.derived.parent is not None),
        "teacher": config.derived.teacher,
        "task": config.task,
        "family": config.model.get("name", config.task),
        "seed": config.seed,
        "params_total": cost.params_total,
        "params_non_embedding": cost.params_non_embedding,
        "params_active": cost.active,
        "flops_per_example_6n": cost.flops_per_example_6n,
        "flops_per_example_exact": cost.flops_exact,
        "flops_6nd": 6.0 * cost.params_total * tokens,
        "flops_6nd_non_embedding": 6.0 * cost.params_non_embedding * tokens,
        "flops_6nd_active": 6.0 * cost.active * tokens,
        "flops_exact": exact,
        "flops_forward": examples * cost.flops_forward,
        "flops_backward": examples * cost.flops_backward,
        "flops_teacher": examples * cost.teacher,
        "flops_routing": examples * cost.flops_routing,
        "flops_hardware": examples * cost.flops_hardware,
        "flops_exact_causal": examples * cost.flops_exact_causal,
        "tokens": tokens,
        "unique_tokens": tokens if available is None else min(tokens, available),
        "epochs": 0.0 if available is None else tokens / available,
        "examples": examples,
        "steps": steps,
        "batch_size": config.batch_size,
        "peak_lr": config.optimizer.learning_rate,
        "warmup_steps": config.derived.warmup_steps,
        "schedule": config.schedule.name,
        "optimizer": config.optimizer.name,
        "weight_decay": config.optimizer.weight_decay,
        **replicas.record(config, cost.params_total, steps),
        **async_sgd.record(config, cost.params_total, steps),
        "tokens_per_second": tokens / seconds if seconds else None,
        "mfu": costs.mfu(exact, seconds, env["num_devices"], peak),
        "device_kind": env["device_kind"],
        "num_devices": env["num_devices"],
        "git_revision": env["git_revision"],
        "versions": env["versions"],
        **measured,
        "ended_at": time.time(),
    }


def finite(value: Any) -> Any:
    """Plain Python values, with null for what is not finite."""
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
