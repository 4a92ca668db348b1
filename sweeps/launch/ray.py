"""Ray: tasks that are workers on the sweep directory, on a cluster that is there or on this machine.

Ray starts a task again where its process or its node dies, and the leases of its points make them free. With a fraction of
a GPU, several tasks share one, each with its share of the memory.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Sequence
from typing import Any

from sweeps.launch.launcher import OnEvent, Options, parse_options
from sweeps.launch.watch import watch
from sweeps.sweep_dir import Sweep
from sweeps.worker_job import WorkerJob
from sweeps.worker_process import serve_submitted
from training import extras
from training.errors import BadInput, RunFailed

KINDS: dict[str, Any] = {
    "address": str,  # "auto": the cluster that this machine belongs to; without it and $RAY_ADDRESS Ray starts here
    "num_cpus": float,  # of each worker
    "num_gpus": float,
    "memory": float,  # bytes
    "max_retries": int,
}
RETRIES = 100  # of a task whose node is taken away
GRACE = 60.0  # seconds to save after a signal


def check(options: Options) -> None:
    """Raise BadInput where an option is wrong, or where there is no Ray."""
    parse_options(options.launcher_options, KINDS)
    if options.detach:
        raise BadInput("--detach: Ray's tasks end with the process that started them; submit the command as a Ray job")
    extras.require("--launcher=ray", "ray")
    host, colon, port = options.launcher_options.get("address", "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():  # Ray itself would try for minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise BadInput(
                f"--launcher_option address={host}:{port}: no Ray cluster there ({error.strerror})"
            ) from error


def placements(sweep: Sweep, run_ids: list[str], options: Options) -> Sequence[str]:
    """A name for every task, by default as many as fit into the cluster.

    Args:
        sweep, run_ids, options: as in `sweeps.launch.launcher.Launcher.placements`.
    """
    del sweep
    return [f"task {i}" for i in range(min(options.workers or _capacity(options), len(run_ids)))]


def launch(sweep: Sweep, run_ids: list[str], options: Options, on_event: OnEvent, signals: list[int]) -> int:
    """Run points in Ray tasks; returns how many ended.

    Args:
        sweep, run_ids, options, on_event, signals: as in `sweeps.launch.launcher.Launcher.launch`.

    Raises:
        RunFailed: no task came to its end.
    """
    ray = _joined_cluster(options)
    count = len(placements(sweep, run_ids, options))
    wanted = {"max_retries": RETRIES, **_resources(options)}
    gpus = wanted.get("num_gpus", 0)
    if 0 < gpus < 1:
        share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * gpus:.3f}"}
        wanted["runtime_env"] = {"env_vars": share}
    task = ray.remote(serve_submitted).options(**wanted)  # type: ignore[attr-defined]
    job = WorkerJob(str(sweep.path), tuple(run_ids), uuid.uuid4().hex, options.run_batch, count)
    tasks = [task.remote(job) for _ in range(count)]

    def alive() -> bool:
        return len(ray.wait(tasks, num_returns=len(tasks), timeout=0)[1]) > 0

    ended = watch(sweep, run_ids, count, on_event, alive, signals)
    if signals:
        on_event({"event": "stopping"})
        for each in tasks:
            ray.cancel(each)  # as Ctrl-C in the task: it saves and leaves
        deadline = time.monotonic() + GRACE
        while alive() and time.monotonic() < deadline and len(signals) < 2:
            time.sleep(0.5)
        for each in tasks:
            ray.cancel(each, force=True)
    else:
        try:
            ray.get(tasks)
        except ray.exceptions.RayError as error:
            if not ended:
                message = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise RunFailed(f"ray: no worker came to its end: {message}") from error
    return ended


def _resources(options: Options) -> dict[str, Any]:
    return {name: value for name, value in parse_options(options.launcher_options, KINDS).items() if name != "address"}


def _joined_cluster(options: Options) -> Any:
    """The library `ray`, once this process has joined a cluster."""
    import ray

    if not ray.is_initialized():
        # Without an address Ray would join whatever cluster this machine belongs to.
        address = options.launcher_options.get("address", os.environ.get("RAY_ADDRESS", "local"))
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            message = " ".join(str(error).split())
            raise BadInput(f"--launcher_option address={address}: no Ray cluster there ({message})") from error
    return ray


def _capacity(options: Options) -> int:
    """How many workers fit into the cluster, which is joined, or started."""
    ray = _joined_cluster(options)
    wanted = {"num_cpus": 1.0, **_resources(options)}
    resources = ray.cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    fitting = [resources.get(names[name], 0.0) / value for name, value in wanted.items() if name in names and value > 0]
    capacity = int(min(fitting))
    if capacity < 1:
        raise BadInput(f"--launcher_option: no node of the Ray cluster has room for a worker with {wanted}")
    return capacity
