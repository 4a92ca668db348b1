"""One run over several processes, a process a host or a GPU: who they are, and a rendezvous before JAX joins them.

JAX waits for its processes too, but ends in a stack trace that names none. So the first process listens on the
coordinator's port until all have come, and then hands the port over to JAX.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax

from training.errors import BadInput, RunFailed

START_SECONDS = 300.0  # for all processes to come
CLUSTERS = ("slurm", "tpu")
PORTS = 50_000, 10_000  # the first, and how many, of those that SLURM's jobs are given by their number


class Process(NamedTuple):
    """A process among its like: `index` of `count`, and where the first one listens ("host:port")."""

    coordinator: str
    count: int
    index: int


def this_process(
    cluster: str | None,
    coordinator: str | None,
    count: int | None,
    index: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Process | None:
    """Where this process is; None where it is alone.

    Args:
      cluster: "slurm": what is not given follows from the variables of an srun step.
      coordinator: "host:port" of the first process.
      count: of processes.
      index: of this one.
    Raises:
      BadInput: something is missing or wrong; it is named by its flag.
    """
    if cluster == "slurm":
        for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"):
            if name not in environment:
                raise BadInput(f"--distributed=slurm: no {name} here: start the processes with srun")
        count = int(environment["SLURM_STEP_NUM_TASKS"]) if count is None else count
        index = int(environment["SLURM_PROCID"]) if index is None else index
        if coordinator is None:
            first, many = PORTS
            port = first + int(environment["SLURM_JOB_ID"]) % many
            coordinator = f"{_first_node(environment['SLURM_STEP_NODELIST'])}:{port}"
    given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing or coordinator is None or count is None or index is None:
        raise BadInput(f"{missing[0]}: a run over several processes needs {', '.join(given)}")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"--coordinator: must be host:port, got {coordinator!r}")
    if not 0 <= index < count:
        raise BadInput(f"--process_id: must be from 0 to {count - 1}, got {index}")
    return Process(coordinator, count, index)


def join(where: Process, seconds: float = START_SECONDS) -> None:
    """Wait for all processes, then join them into one JAX.

    Raises:
      RunFailed: not all came in time; those who did not are named.
    """
    if where.count == 1:
        return
    rendezvous(where, seconds)
    jax.distributed.initialize(where.coordinator, where.count, where.index)


def rendezvous(where: Process, seconds: float) -> None:
    """Return once all processes are there, in each of them.

    Raises:
      RunFailed: some are not, or one is there twice.
    """
    host, _, port = where.coordinator.rpartition(":")
    if where.index == 0:
        _await_all(int(port), where.count, seconds)
    else:
        _report(host, int(port), where, seconds)


def _await_all(port: int, count: int, seconds: float) -> None:
    deadline, there = time.monotonic() + seconds, {0: socket.gethostname()}
    with contextlib.ExitStack() as stack:
        try:
            listening = stack.enter_context(socket.create_server(("", port), backlog=count))
        except OSError as error:
            raise RunFailed(f"--coordinator: process 0 cannot listen on port {port} ({error.strerror})") from error
        answered, wrong = [], None
        while len(there) < count and wrong is None and (left := deadline - time.monotonic()) > 0:
            listening.settimeout(left)
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                break
            stack.enter_context(connection)
            connection.settimeout(5.0)
            with contextlib.suppress(OSError, ValueError, KeyError):  # a stranger
                said = json.loads(connection.makefile().readline())
                index, name = int(said["process"]), str(said["host"])
                answered.append(connection)
                if index in there or said["count"] != count:
                    before = f", and from {there[index]} before" if index in there else ""
                    wrong = f"process {index} of {said['count']} came from {name}{before}; {count} are awaited"
                there.setdefault(index, name)
        absent = [str(i) for i in range(count) if i not in there]
        if absent and wrong is None:
            come = ", ".join(f"{i} ({name})" for i, name in sorted(there.items()))
            wrong = f"of {count} processes, {', '.join(absent)} did not come within {seconds:g} s; there were {come}"
        for connection in answered:
            with contextlib.suppress(OSError):
                connection.sendall((json.dumps({"wrong": wrong}) + "\n").encode())
    if wrong is not None:
        raise RunFailed(f"--coordinator: {wrong}")


def _report(host: str, port: int, where: Process, seconds: float) -> None:
    deadline = time.monotonic() + seconds + 5.0  # the first process is the one to say who is absent
    said = json.dumps({"process": where.index, "count": where.count, "host": socket.gethostname()}) + "\n"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 5.0)) as connection:
                connection.sendall(said.encode())
                connection.settimeout(left)
                line = connection.makefile().readline()
        except OSError:
            time.sleep(0.2)  # it is not there yet
            continue
        if not line:
            continue
        wrong = json.loads(line)["wrong"]
        if wrong is not None:
            raise RunFailed(f"--coordinator: {wrong}")
        return
    raise RunFailed(f"--coordinator: process 0 did not answer at {where.coordinator} within {seconds:g} s")


def _first_node(nodes: str) -> str:
    """The first host of SLURM's short form, as in node[01-03,07]."""
    if "[" not in nodes.split(",")[0]:
        return nodes.split(",")[0]
    found = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return found.stdout.split()[0]
