"""What the processes of a run agree on without files, and what each of them holds of a checkpoint: two processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from training import agreement, checkpoint, mesh as meshes
from training.errors import BadInput
from training.state import State

TESTS = Path(__file__).parents[1]
ROWS, COLUMNS = 64, 1 << 21  # 512 MiB in float32
PROCESS = """
import json, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
index, folder = int(sys.argv[3]), Path(sys.argv[4])
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, index)
import toy
from training import agreement, checkpoint, early_stopping, loop, mesh as meshes, run_directory

said = {}
def attempt(name, call):
    try:
        said[name] = call()
    except Exception as error:
        said[name] = f"{type(error).__name__} {getattr(error, 'exit_code', None)}: {error}"

"""
BODIES = {
    "agree": """
def fail():
    with agreement.all_succeed("data"):
        if index:
            raise FileNotFoundError("no shard 7")
def late():
    with agreement.all_succeed("compilation", seconds=2):
        time.sleep(4 * index)
attempt("gathered", lambda: agreement.gathered({"text": "a" * (1 + 99 * index), "value": -float("inf")}))
attempt("first", lambda: agreement.of_first("a file", lambda: [1.5, 1 / 0 if index else 2]))
attempt("first fails", lambda: agreement.of_first("a file", lambda: json.loads("{")))
attempt("largest", lambda: agreement.largest(index, -index))
attempt("equal", lambda: agreement.check_equal({"data_hash": "x"}))
attempt("unequal", lambda: agreement.check_equal({"data_hash": f"x{index}"}))
attempt("fail", fail)
attempt("late", late)
""",
    "train": """
if index:  # what the first process wrote is not there for another
    def absent(*arguments):
        raise FileNotFoundError(arguments)
    early_stopping.judge = run_directory.RunDirectory.result = absent
changes = {"log.evaluate_every": 2, "early_stopping.patience": 2, "optimizer.learning_rate": 1.0, "mesh.data": 2}
train = lambda name, **more: loop.run(toy.config(**changes, **more), folder / name)
attempt("steps", lambda: [train("run")[name] for name in ("steps", "best_step", "loss")])
attempt("again", lambda: [train("run")[name] for name in ("steps", "best_step", "loss")])
facts = toy.ToyTask.facts
toy.ToyTask.facts = lambda task: facts(task) | {"data_hash": f"copy {index}"}
attempt("other data", lambda: train("other"))
build = toy.build
toy.build = absent if index else build
attempt("no data", lambda: train("none"))
""",
    "restore": """
grid = meshes.build({"fsdp": 2})
where = jax.NamedSharding(grid, jax.P(None, "fsdp"))
like = {"kernel": jax.ShapeDtypeStruct((64, 1 << 21), "float32", sharding=where)}
checkpoint._orbax()
def peak():  # bytes; that of getrusage is inherited from who started the process
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
params = checkpoint.load_params(folder, mesh=grid, like=like)
said["grown"] = peak() - before
said["held"] = sum(shard.data.nbytes for shard in params["kernel"].addressable_shards)
said["sum"] = int(jax.jit(lambda x: x.astype("int32").sum())(params["kernel"]))
""",
}


def processes(body: str, folder: Path) -> list[dict]:
    """What each of two processes says of a body."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    code = PROCESS + BODIES[body] + "\nprint(json.dumps(said))\n"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(TESTS), str(port), str(i), str(folder)],
            env=environment,
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    told = [process.communicate(timeout=180) for process in running]
    assert all(process.returncode == 0 for process in running), told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


def test_processes_agree_in_memory(tmp_path):
    first, second = processes("agree", tmp_path)
    infinite = -float("inf")
    assert first["gathered"] == [{"text": "a", "value": infinite}, {"text": "a" * 100, "value": infinite}]
    assert first["first"] == [1.5, 2] and first["largest"] == [1, 0] and first["equal"] is None
    assert first["unequal"] == "BadInput 2: data_hash: x0 in process 0 and x1 in process 1 of one run"
    late = "RunFailed 1: compilation: processes 1 of 2 were not ready within 2 s"
    assert first["late"] == late and second["late"] == late
    for name in ("gathered", "first", "largest", "equal", "unequal"):
        assert first[name] == second[name]
    assert first["fail"] == "RunFailed 1: data: process 1 of 2 failed: no shard 7"
    assert second["fail"] == "FileNotFoundError None: no shard 7"
    assert first["first fails"].startswith("JSONDecodeError")
    assert second["first fails"].startswith("RunFailed 1: a file: process 0 of 2 failed: Expecting property name")


@pytest.mark.slow
def test_a_run_over_processes_stops_early_and_ends_without_reading_what_another_wrote(tmp_path):
    first, second = processes("train", tmp_path)
    steps, best, _ = first["steps"]
    assert best < steps < 24
    assert second["steps"] == first["steps"] == first["again"] == second["again"]
    told = "BadInput 2: data_hash: copy 0 in process 0 and copy 1 in process 1 of one run"
    assert first["other data"] == second["other data"] == told
    assert first["no data"].startswith("RunFailed 1: data: process 1 of 2 failed: ")
    assert not (tmp_path / "other" / "config.json").exists() and not (tmp_path / "none").exists()


def saved(folder: Path, where: jax.sharding.Sharding) -> None:
    """A checkpoint of one kernel of 512 MiB, small whole numbers."""
    whole = jnp.arange(ROWS * COLUMNS, dtype=jnp.int32).reshape(ROWS, COLUMNS) % 7
    kernel = jax.device_put(whole.astype(jnp.float32), where)
    step = jax.device_put(jnp.zeros((), jnp.int32), jax.devices()[0])
    checkpoints = checkpoint.Checkpoints(folder)
    checkpoints.save(1, State(step=step, params={"kernel": kernel}, stats={}, moments={}, ema=None))
    checkpoints.close()


@pytest.mark.slow
def test_no_process_holds_a_whole_parameter_that_one_device_saved(tmp_path):
    saved(tmp_path, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    whole, (weeks, days) = 4 * ROWS * COLUMNS, divmod(ROWS * COLUMNS, 7)
    for told in processes("restore", tmp_path):
        assert told["held"] == whole / 2
        assert told["grown"] - told["held"] < 0.8 * whole  # read in one piece, it takes the whole
        assert told["sum"] == 21 * weeks + sum(range(days))


def test_a_restored_parameter_lies_in_its_sharding_on_every_device(tmp_path, monkeypatch):
    """Eight devices that each ask for their part alone; no array is made whole to be cut."""
    grid, asked = meshes.build({"fsdp": 8}), []
    monkeypatch.setattr(checkpoint, "CHUNK", 1 << 12)
    folder, kernel = tmp_path / "run", jnp.arange(4096.0).reshape(64, 64)
    checkpoints = checkpoint.Checkpoints(folder)
    state = State(
        step=jnp.zeros((), jnp.int32),
        params={"kernel": kernel, "bias": kernel[0]},
        stats={},
        moments={"m": kernel},
        ema=None,
    )
    checkpoints.save(1, state)
    checkpoints.wait()
    load = checkpoint._orbax().load_checkpointables
    monkeypatch.setattr(
        checkpoint._orbax(), "load_checkpointables", lambda path, wanted: asked.append(wanted) or load(path, wanted)
    )
    split, whole = jax.NamedSharding(grid, jax.P("fsdp")), meshes.replicated(grid)
    abstract = jax.eval_shape(lambda: state)
    shardings = jax.tree.map(lambda x: split if x.ndim == 2 else whole, abstract)
    restored = checkpoints.restore(1, abstract, shardings)
    checkpoints.close()
    for array in (
        restored.params["kernel"],
        restored.moments["m"],
        checkpoint.load_params(folder, mesh=grid, like=restored.params)["kernel"],
    ):
        assert array.sharding == split and {shard.data.shape for shard in array.addressable_shards} == {(8, 64)}
        assert jnp.array_equal(array, kernel)
    assert {leaf.sharding for wanted in asked for leaf in jax.tree.leaves(wanted) if leaf.shape == (64, 64)} == {split}


def test_one_process_agrees_with_itself():
    assert agreement.gathered({"a": 1}) == [{"a": 1}] and agreement.of_first("", lambda: 2) == 2
    assert agreement.largest(1.0, 2) == (1.0, 2)
    agreement.check_equal({"data_hash": "x"})
    with pytest.raises(BadInput, match="as it was raised"), agreement.all_succeed("data"):
        raise BadInput("as it was raised")
