"""Several processes that are one run: who they are, the rendezvous, and the run itself over processes of this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from training import hosts
from training.errors import BadInput, RunFailed

TESTS = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def called(places, seconds=5.0) -> list:
    """What the rendezvous says in each process, here a thread: None where it is complete."""
    said: dict[int, str | None] = {}

    def call(i, where):
        try:
            hosts.rendezvous(where, seconds)
            said[i] = None
        except RunFailed as error:
            said[i] = str(error)

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(places)]
    for thread in reversed(threads):  # the first process is the last to come
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return [said[i] for i in range(len(places))]


def test_a_rendezvous_ends_once_all_are_there():
    address = f"127.0.0.1:{free_port()}"
    assert called([hosts.Process(address, 4, i) for i in range(4)]) == [None] * 4


def test_a_rendezvous_names_the_absent_to_all():
    address = f"127.0.0.1:{free_port()}"
    said = called([hosts.Process(address, 4, i) for i in (0, 2)], seconds=1.0)
    assert said[0] == said[1]
    assert said[0].startswith("--coordinator: of 4 processes, 1, 3 did not come within 1 s; there were 0 (")


def test_a_process_that_is_there_twice_is_named():
    address = f"127.0.0.1:{free_port()}"
    said = called([hosts.Process(address, 3, i) for i in (0, 1, 1)])
    assert all("process 1 of 3 came from" in text and "before" in text for text in said)


def test_without_the_first_process_the_others_say_so():
    (said,) = called([hosts.Process(f"127.0.0.1:{free_port()}", 2, 1)], seconds=-4.0)
    assert "process 0 did not answer at 127.0.0.1" in said


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        (said,) = called([hosts.Process(f"127.0.0.1:{port}", 2, 0)])
    assert said.startswith(f"--coordinator: process 0 cannot listen on port {port}")


SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "alpha,beta",
    "SLURM_JOB_ID": "1234567",
}


def test_who_a_process_is():
    assert hosts.this_process(None, None, None, None, {}) is None
    assert hosts.this_process(None, "here:1", 2, 1, {}) == ("here:1", 2, 1)
    assert hosts.this_process("slurm", None, None, None, SRUN) == ("alpha:54567", 8, 3)
    assert hosts.this_process("slurm", "gamma:9", None, None, SRUN) == ("gamma:9", 8, 3)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, "here:1", None, 0), "--num_processes: a run over several processes needs"),
        ((None, None, 2, 0), "--coordinator: a run over several processes needs"),
        ((None, "here", 2, 0), "--coordinator: must be host:port, got 'here'"),
        ((None, "here:1", 2, 2), "--process_id: must be from 0 to 1, got 2"),
        (("slurm", None, None, None), "--distributed=slurm: no SLURM_PROCID here"),
    ],
)
def test_what_is_missing_or_wrong_is_named(given, said):
    with pytest.raises(BadInput, match=said):
        hosts.this_process(*given, environment={})


RUN = """
import os, sys, time
sys.path[:0] = [sys.argv[1]]
from training import hosts, loop, signals
port, count, index, run, until, pause = sys.argv[2], *map(int, sys.argv[3:5]), sys.argv[5], *map(float, sys.argv[6:8])
hosts.join(hosts.Process(f"127.0.0.1:{port}", count, index), 60.0)
import toy
def slow(step, line):
    time.sleep(pause)
config = toy.config(**{"duration.steps": int(until), "checkpoint.every_steps": 10, "log.every": 1, "batch_size": 16})
try:
    print(loop.run(config, run, [slow], allow_change=("duration.steps",))["continued_from"])
except signals.Interrupted as error:
    sys.exit(error.exit_code)
"""


def start(count, run, steps=24, pause=0.0):
    """The processes of a run, each with as many devices as make four together."""
    port = free_port()
    flags = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}", "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(TESTS), str(port), str(count), str(i), str(run), str(steps), str(pause)],
            env=flags,
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def ended(processes, code=0) -> str:
    """What the first of them said last, once all have ended with a code."""
    assert [process.wait(120) for process in processes] == [code] * len(processes)
    return processes[0].stdout.read().split()[-1] if code == 0 else ""


@pytest.mark.slow
def test_processes_train_as_one_and_go_on_in_other_numbers(tmp_path):
    """One, two and four processes with four devices in all; what four saved is continued by one and by two."""
    for count in (1, 2, 4):
        ended(start(count, tmp_path / str(count)))
    one = losses(tmp_path / "1")
    results = [json.loads((tmp_path / str(count) / "result.json").read_text()) for count in (1, 2, 4)]
    assert [result["num_devices"] for result in results] == [4, 4, 4]
    for count in (2, 4):
        assert losses(tmp_path / str(count)) == pytest.approx(one, rel=1e-6)
        assert results[count // 2]["loss"] == pytest.approx(results[0]["loss"], rel=1e-6)
    processes = start(4, tmp_path / "cut", pause=0.2)
    while not (tmp_path / "cut" / "metrics.jsonl").exists() or len(losses(tmp_path / "cut")) < 12:
        time.sleep(0.1)
    processes[2].send_signal(signal.SIGTERM)  # one is told, and all of them save and leave
    ended(processes, 128 + signal.SIGTERM)
    for count in (1, 2):
        subprocess.run(["cp", "-r", str(tmp_path / "cut"), str(tmp_path / f"cut{count}")], check=True)
        assert int(ended(start(count, tmp_path / f"cut{count}"))) > 10
        assert losses(tmp_path / f"cut{count}") == pytest.approx(one, rel=1e-5)
