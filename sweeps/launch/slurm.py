"""SLURM, through submitit: a job array whose tasks are workers on the sweep directory.

A task claims points until none is left. SLURM tells it by SIGUSR2 that its time is up, or that it is to make room: it saves,
and asks to be put into the queue again; `scancel` ends it after it has saved. A task that is killed in any other way is not
missed: its points are taken over. What submitit writes lies beside the sweep directory, in `<sweep>.slurm`.
"""

import dataclasses
import os
import shutil
import signal
import subprocess
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

# submitit's names of the options of sbatch that people need, and "extra": any other, as in extra=reservation:name.
KINDS: dict[str, Any] = {
    "partition": str,
    "account": str,
    "qos": str,
    "constraint": str,
    "exclude": str,
    "nodelist": str,
    "gres": str,
    "time": int,  # minutes
    "nodes": int,
    "tasks_per_node": int,
    "cpus_per_task": int,
    "gpus_per_node": int,
    "gpus_per_task": int,
    "mem_gb": float,
    "array_parallelism": int,
    "signal_delay_s": int,
    "extra": str,
}
GRACE = 60.0  # seconds from scancel's first signal to its last


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the array, which submitit pickles and calls."""

    job: WorkerJob

    def __call__(self) -> None:
        """Work on the sweep until nothing is left, or until SLURM says stop."""
        stopped, progressed = serve_submitted(self.job)
        if stopped == signal.SIGUSR2 and not progressed:
            print("no step was made in the time that SLURM gave: not put back into the queue", flush=True)
        elif stopped == signal.SIGUSR2:
            array = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
            task = os.environ.get("SLURM_ARRAY_TASK_ID")
            subprocess.run(["scontrol", "requeue", f"{array}_{task}" if task else array], check=True, timeout=60)
            time.sleep(GRACE)  # the end of this process would be the end of the job


def check(options: Options) -> None:
    """Raise BadInput where an option is wrong, or where there is no SLURM or no submitit."""
    parse_options(options.launcher_options, KINDS)
    extras.require("--launcher=slurm", "submitit")
    absent = [name for name in ("sbatch", "srun", "squeue", "scancel") if not shutil.which(name)]
    if absent:
        raise BadInput(f"--launcher=slurm: no {absent[0]} here: run this on a login node of a SLURM cluster")


def placements(sweep: Sweep, run_ids: list[str], options: Options) -> Sequence[str]:
    """A name for every task of the array.

    Args:
        sweep, run_ids, options: as in `sweeps.launch.launcher.Launcher.placements`.
    """
    del sweep
    values = parse_options(options.launcher_options, KINDS)
    tasks_per_job = values.get("nodes", 1) * values.get("tasks_per_node", 1)
    jobs = min(options.workers or 1, len(run_ids))
    return [f"task {i}" for i in range(jobs * tasks_per_job)]


def launch(sweep: Sweep, run_ids: list[str], options: Options, on_event: OnEvent, signals: list[int]) -> int:
    """Run points in a job array; returns how many ended.

    Args:
        sweep, run_ids, options, on_event, signals: as in `sweeps.launch.launcher.Launcher.launch`.

    Raises:
        RunFailed: SLURM refuses the job.
    """
    import submitit

    workers, jobs = len(placements(sweep, run_ids, options)), min(options.workers or 1, len(run_ids))
    folder = sweep.path.with_name(f"{sweep.path.name}.slurm")
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=10**6)
    task = Task(WorkerJob(str(sweep.path), tuple(run_ids), uuid.uuid4().hex, options.run_batch, workers))
    try:
        executor.update_parameters(job_name=f"isoflop-{sweep.name}", **_parameters(options))
        with executor.batch():
            submitted = [executor.submit(task) for _ in range(jobs)]
    except (RuntimeError, OSError) as error:  # submitit's own are RuntimeErrors
        raise RunFailed(f"slurm: sbatch refused the job: {' '.join(str(error).split())}") from error
    number = submitted[0].job_id.split("_")[0]
    on_event({"event": "note", "text": f"SLURM job {number}, its output in {folder}"})
    if options.detach:
        return 0
    ended = watch(sweep, run_ids, workers, on_event, lambda: _queued(number), signals)
    if signals:
        on_event({"event": "stopping"})
        subprocess.run(["scancel", number], capture_output=True)
        deadline = time.monotonic() + GRACE
        while _queued(number) and time.monotonic() < deadline and len(signals) < 2:
            time.sleep(0.5)
        subprocess.run(["scancel", "--signal=KILL", "--full", number], capture_output=True)
    return ended


def _parameters(options: Options) -> dict[str, Any]:
    values = parse_options(options.launcher_options, KINDS)
    extra = values.pop("extra", None)
    if extra is not None:
        pairs = [item.partition(":")[::2] for item in extra.split(",")]
        values["additional_parameters"] = {name: value or True for name, value in pairs}
    values.setdefault("additional_parameters", {})["requeue"] = True
    if "tasks_per_node" in values:
        values["ntasks_per_node"] = values.pop("tasks_per_node")
    if "mem_gb" in values:
        values["mem"] = f"{round(values.pop('mem_gb') * 1024)}M"
    return {"time": 60, **values}


def _queued(number: str) -> bool:
    """Whether any task of a job waits or runs; so it is taken to be while SLURM does not answer."""
    squeue = subprocess.run(["squeue", "-h", "-j", number, "-o", "%T"], capture_output=True, text=True)
    if squeue.returncode:
        return "Invalid job id" not in squeue.stderr  # what SLURM says of a job that ended a while ago
    return bool(squeue.stdout.strip())
