"""Runs stepped together: one compiled program over their states, which are one state with an axis of runs in front
(`jax.vmap`); a run alone has no such axis."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float
from ml_collections import ConfigDict

from training import (
    allocator,
    compilation,
    data,
    evaluation,
    memory,
    mesh as meshes,
    schedule,
    step as steps,
    step_spec,
)
from training.metrics import Fetch
from training.state import State
from training.step_spec import StepSpec
from training.task import Task
from training.types import ArrayOrNumpy

_reported: "WeakSet[compilation.Program]" = WeakSet()  # train steps whose compilation is in the record of a run


class StepInputs(NamedTuple):
    """What the steps of one run are made of.

    Attributes:
      config: resolved.
      task: makes its batches.
      step_spec: what its compiled step depends on.
      hyper: scalars of the step, by name.
      shapes: of its batches.
      lr_schedule: the learning rate of every step, float32 [steps].
    """

    config: ConfigDict
    task: Task
    step_spec: StepSpec
    hyper: dict[str, np.float32]
    shapes: data.Shapes
    lr_schedule: np.ndarray


def step_inputs(config: ConfigDict, task: Task) -> StepInputs:
    """The inputs of the steps of a resolved config."""
    spec, hyper = step_spec.of(task.model, config), step_spec.hyper(config, task)
    return StepInputs(config, task, spec, hyper, data.shapes(task, config.batch_size), schedule.rates(config))


class RunBatch:
    """The compiled programs and the states of runs that are stepped together.

    Between construction and `start` each run puts its state in, restored or initial; from `start` on the states are one.

    Args:
      runs: with equal specs, on batches of equal shapes.
    Attributes:
      mesh: where the states lie; that of the config where a run is alone.
      programs: initial values, and the shapes, shardings and variables of the state of one run.
      size: how many runs share the machine.
      compile_seconds: how long their compilation took.
      compiles: how many train steps this process compiled for them: 0 where it, or another process, had that shape before.
    Raises:
      BadInput: the batch does not fit the mesh, or the program into memory.
      ValueError: specs or shapes differ.
    """

    def __init__(self, runs: Sequence[StepInputs]):
        first = runs[0]
        if any(run.step_spec != first.step_spec or run.shapes != first.shapes for run in runs):
            raise ValueError("runs that are stepped together must have one spec and one shape of batch")
        self._runs, self.size, self._alone = runs, len(runs), len(runs) == 1
        self.mesh = meshes.build(first.config.mesh) if self._alone else mesh_of(len(runs))
        for run in runs:
            data.check_divisible(run.config, self.mesh)
        self._same_data = not self._alone and len({_data_key(run.config) for run in runs}) == 1
        self.compile_seconds, self.compiles = 0.0, 0
        # By steps a call, and whether the runs share their batches.
        self._trains: dict[tuple[int, bool], compilation.Program] = {}
        self._executables: dict[tuple[int, bool], jax.stages.Compiled] = {}
        self.programs = self._programs(1, self._same_data)
        meshes.check_split(self.programs.variables["params"], self.mesh, first.config.mesh.allow_replicated)
        self._compile([0] * len(runs))
        allocator.tidy()
        self._hyper = {name: np.stack([run.hyper[name] for run in runs]) for name in first.hyper}
        self._seeds = np.array([run.config.seed for run in runs], np.int32)
        self._separate: list[State | None] = [None] * len(runs)  # until `start`, and of a run alone
        self._stacked: State | None = None
        self._pending: Callable[[], Any] | None = None  # waits for the metrics of the last call

    def init(self, index: int) -> State:
        """The initial state of a run, drawn from its seed."""
        run = self._runs[index]
        return compilation.program(self.programs.init)(np.int32(run.config.seed), run.hyper)

    def put(self, index: int, state: State) -> None:
        """Hand over the state with which a run begins."""
        self._separate[index] = state

    def state(self, index: int) -> State:
        """The state of a run after its last step."""
        if self._stacked is not None:
            return self._take(self._stacked, index)
        state = self._separate[index]
        assert state is not None, "the run has no state yet"
        return state

    def start(self, at: Sequence[int | None]) -> None:
        """Make one state of those of the runs.

        Args:
          at: the step that each run has reached; None: it has ended already.
        """
        live = [step for step in at if step is not None]
        self._same_data = self._same_data and len(set(live)) == 1
        self._compile(at)  # nothing, unless runs go on from checkpoints
        if self._alone or not live:
            return
        spare = next(i for i, step in enumerate(at) if step is not None)
        chosen = [spare if step is None else i for i, step in enumerate(at)]
        self._stacked = stacked([self.state(i) for i in chosen], self.programs.shardings)
        self._separate = [None] * self.size

    def batches(self, at: Sequence[int | None], n: int) -> dict[str, ArrayOrNumpy]:
        """The next n batches of every run: arrays [n, batch, ...], [runs, n, batch, ...] where runs have data of their own.

        Args:
          at: the step that each run has reached; None: it has ended, and is stepped on the data of another, since a step
            of fewer runs would have to be compiled.
          n: steps.
        """
        spare = next(i for i, step in enumerate(at) if step is not None)
        chosen = [(spare, at[spare]) if step is None else (i, step) for i, step in enumerate(at)]
        tasks, begin = [self._runs[i].task for i, _ in chosen], [step or 0 for _, step in chosen]
        if self._alone or self._same_data:
            return data.batches(tasks[0], self._runs[0].shapes, self.mesh, begin[0], n)
        return data.packed(tasks, self._runs[0].shapes, self.mesh, begin, n)

    def learning_rates(self, at: Sequence[int | None], n: int) -> Float[np.ndarray, "runs steps"]:
        """The learning rates of the next n steps of every run, 0 of one that has ended; arguments as of `batches`."""
        lr = np.zeros((self.size, n), np.float32)
        for row, run, step in zip(lr, self._runs, at, strict=True):
            row[:] = 0.0 if step is None else run.lr_schedule[step : step + n]
        return lr

    def step(self, batches: dict[str, ArrayOrNumpy], lr: Float[np.ndarray, "runs steps"]) -> list[Fetch]:
        """Take as many steps of every run as `lr` is long in one compiled call, and wait for the call before.

        Args:
          batches: from `batches`.
          lr: from `learning_rates`.
        Returns:
          For each run what fetches its metrics of the call, [steps] each.
        """
        train, n = self._executable, lr.shape[1]
        if self._alone:
            (run,), state = self._runs, self._separate[0]
            self._separate[0] = None  # its buffers are taken over
            self._separate[0], metrics = train(n, False)(state, batches, lr[0], self._seeds[0], run.hyper)
        else:
            self._stacked, metrics = train(n, self._same_data)(self._stacked, batches, lr, self._seeds, self._hyper)
        fetch = functools.lru_cache(1)(lambda: {name: np.asarray(values) for name, values in metrics.items()})
        previous, self._pending = self._pending, fetch
        if previous is not None:
            previous()  # here, so that each run's clock counts its share of the waiting
        if self._alone:
            return [fetch]
        return [functools.partial(_of_run, fetch, i) for i in range(self.size)]

    def _compile(self, at: Sequence[int | None]) -> None:
        """Compile what the runs will call from where they are, and count what no run's record has reported yet: a shape
        may have been compiled to be measured."""
        began, first = time.perf_counter(), self._runs[0]
        left = [
            (len(run.lr_schedule) - step, run.config.steps_per_call)
            for run, step in zip(self._runs, at, strict=True)
            if step is not None
        ]
        lengths = {n for total, steps_per_call in left for n in steps.strides(total, steps_per_call)}
        trains = [self._train(n, self._same_data) for n in lengths]
        new = [train for train in trains if train not in _reported]
        beside = evaluation.programs(first.task, first.step_spec, self.programs, self.mesh) if new else []
        init = compilation.program(self.programs.init)
        compilation.ready([*trains, *([init] if trains else []), *beside])
        for n in lengths:
            self._executable(n, self._same_data)
        if new:
            longest = max(train.seconds + init.seconds for train in new)
            self.compile_seconds += max(time.perf_counter() - began, longest)
        self.compiles += sum(train.fresh for train in new)
        _reported.update(new)
        memory.check(max(train.memory_bytes for train in self._trains.values()), self.size)

    def _executable(self, n: int, same_data: bool) -> jax.stages.Compiled:
        if (n, same_data) not in self._executables:
            self._executables[n, same_data] = self._train(n, same_data).compiled
        return self._executables[n, same_data]

    def _train(self, n: int, same_data: bool) -> compilation.Program:
        if (n, same_data) not in self._trains:
            self._trains[n, same_data] = compilation.program(self._programs(n, same_data).train)
        return self._trains[n, same_data]

    def _programs(self, n: int, same_data: bool) -> steps.Programs:
        first, packed = self._runs[0], () if self._alone else (self.size, same_data)
        return steps.programs(first.step_spec, self.mesh, n, first.shapes, tuple(first.hyper), *packed)

    @functools.cached_property
    def _take(self) -> Callable[[Any, int], State]:
        return jax.jit(lambda tree, i: jax.tree.map(lambda x: x[i], tree), out_shardings=self.programs.shardings)


def _of_run(fetch: Fetch, index: int) -> dict[str, np.ndarray]:
    return {name: values[index] for name, values in fetch().items()}


def mesh_of(runs: int) -> Mesh:
    """As many devices as share the runs evenly, along the axis of runs."""
    devices = jax.devices()
    return meshes.build({"run": math.gcd(runs, len(devices))}, devices)


def stacked(states: Sequence[State], shardings: State) -> State:
    """The states of runs as one with the axis of runs in front.

    Args:
      states: one for each run.
      shardings: of the state of one run.
    """
    ahead = jax.tree.map(lambda s: NamedSharding(s.mesh, PartitionSpec("run", *s.spec)), shardings)
    return jax.jit(lambda *each: jax.tree.map(lambda *x: jnp.stack(x), *each), out_shardings=ahead)(*states)


def _data_key(config: ConfigDict) -> tuple[Any, ...]:
    """What the batches of runs of one spec depend on: the data, and the seed of the run, which draws their order."""
    return config.seed, config.batch_size, config.data.to_json_best_effort()
