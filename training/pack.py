"""Runs in lockstep: one compiled program takes a step of every run of a pack; a run alone is a pack of one.

A run is a generator. It yields `Ready` and is sent its `Seat`; then it yields how many steps it would take at most, again
and again, and is sent how many were taken and a function that fetches their metrics; it returns its record. So the loop
is written once, for one run, and knows nothing of the others.
"""

import functools
import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from training import allocator, compilation, data, evaluation, memory, mesh as meshes, step as steps
from training.meter import Fetch, Meter
from training.signals import Interrupted, stoppable
from training.state import State
from training.task import Task

Run = Generator[Any, Any, dict[str, Any]]
_told: "WeakSet[compilation.Program]" = WeakSet()  # steps whose compilation is in the record of a run


class Ready(NamedTuple):
    """What a run says of itself before it begins; `rates` are the learning rates of all its steps."""

    config: ConfigDict
    task: Task
    recipe: steps.Recipe
    hyper: dict[str, np.float32]
    shapes: data.Shapes
    rates: np.ndarray


class Seat:
    """What a run is given, and where its state is.

    Attributes:
      mesh: where the state lies.
      program: makes initial values; the shapes, shardings and variables of the state.
      runs: how many runs share the machine.
      compile_seconds: how long their compilation took.
      compiles: how many train steps this process has compiled for them: 0 where an earlier run had that shape, or another
        process.
      stop: is empty until a signal comes, whose number it then holds.
      meter: the clock of the run, which the run puts here.
    """

    meter: Meter

    def __init__(
        self,
        mesh: Mesh,
        program: steps.Programs,
        runs: int,
        compile_seconds: float,
        compiles: int,
        stop: list[int],
    ):
        self.mesh, self.program, self.runs, self.stop = mesh, program, runs, stop
        self.compile_seconds, self.compiles = compile_seconds, compiles
        self.read: Callable[[], State] | None = None  # from the pack, once it has begun
        self._own: State | None = None

    @property
    def state(self) -> State:
        """The state of the run after its last step."""
        if self.read is not None:
            return self.read()
        assert self._own is not None, "the run has no state yet"
        return self._own

    @state.setter
    def state(self, state: State) -> None:
        self._own = state

    def give(self) -> State:
        """Hand the state over, to be stepped."""
        state, self._own = self.state, None
        return state


class _Member:
    """A run of a pack, and where it is."""

    ready: Ready
    seat: Seat

    def __init__(self, run: Run):
        self._run = run
        self.asks: Any = None
        self.step = 0
        self.outcome: dict[str, Any] | Exception | None = None

    @property
    def live(self) -> bool:
        return self.outcome is None

    def send(self, value: Any) -> None:
        """Let the run go on to its next question, or to its end."""
        self._go(functools.partial(self._run.send, value))

    def throw(self, error: Exception) -> None:
        """Let the run end with an error."""
        self._go(functools.partial(self._run.throw, error))

    def close(self) -> None:
        self._run.close()

    def _go(self, on: Callable[[], Any]) -> None:
        try:
            self.asks = on()
        except StopIteration as end:
            self.outcome = end.value
        except Exception as error:
            self.outcome = error


def together(runs: Sequence[Run]) -> list[dict[str, Any] | Exception]:
    """Take runs to their ends, all in lockstep; what becomes of one does not disturb the others.

    Args:
      runs: of equal recipes, on equal shapes.
    Returns:
      The record of each, or what was raised in it.
    Raises:
      Interrupted: by a signal, after every run has saved a checkpoint.
    """
    members = [_Member(run) for run in runs]
    try:
        for member in members:
            member.send(None)
            member.ready = member.asks
        pack = [member for member in members if member.live]
        if pack:
            with stoppable() as stop:
                _lockstep(pack, stop)
    finally:
        for member in members:
            member.close()
    outcomes = [member.outcome for member in members]
    for outcome in outcomes:
        if isinstance(outcome, Interrupted):
            raise outcome
    return outcomes  # type: ignore[return-value]


def _lockstep(pack: list[_Member], stop: list[int]) -> None:
    try:
        engine = _Engine(pack, stop)
    except Exception as error:
        for member in pack:
            member.throw(error)
        return
    waiting = {}
    for member in pack:
        member.send(member.seat)
        waiting[member] = time.perf_counter()
    try:
        engine.begin()
    except Exception as error:
        for member in pack:
            if member.live:
                member.throw(error)
        return
    for member in pack:  # no run's clock counts what the others began with
        if member.live:
            member.seat.meter.uncounted(time.perf_counter() - waiting[member])
    fetch: Fetch | None = None
    while live := [member for member in pack if member.live]:
        began = time.perf_counter()
        n = min(member.asks for member in live)
        previous, fetch = fetch, engine.step(live, n)
        if previous is not None:
            previous()  # here, so that no run's clock counts the wait for all
        stepping = time.perf_counter() - began
        own = {}
        for member in live:
            asked = time.perf_counter()
            member.step += n
            member.send((n, functools.partial(_part, fetch, engine.index(member))))
            own[member] = time.perf_counter() - asked
        for member in live:
            others = time.perf_counter() - began - own[member] - stepping / len(live)
            if len(pack) > 1 and member.live:
                member.seat.meter.uncounted(others)


def _part(fetch: Fetch, index: int | None) -> dict[str, np.ndarray]:
    metrics = fetch()
    return metrics if index is None else {name: values[index] for name, values in metrics.items()}


class _Engine:
    """The programs of a pack, and its state."""

    def __init__(self, pack: list[_Member], stop: list[int]):
        first = pack[0].ready
        self._pack, self._alone = pack, len(pack) == 1
        if any(member.ready.recipe != first.recipe or member.ready.shapes != first.shapes for member in pack):
            raise ValueError("the runs of a pack must have one recipe and one shape of batch")
        self._mesh = meshes.build(first.config.mesh) if self._alone else mesh(len(pack))
        for member in pack:
            data.check_divisible(member.ready.config, self._mesh)
        self._shared = not self._alone and len({_data(member.ready.config) for member in pack}) == 1
        self._programs: dict[tuple[int, bool], steps.Programs] = {}
        self._stop = stop
        seconds, compiles = self._compile()
        allocator.tidy()
        program = next(iter(self._programs.values()))
        for member in pack:
            member.seat = Seat(self._mesh, program, len(pack), seconds, compiles, stop)
        self._hyper = {name: np.stack([m.ready.hyper[name] for m in pack]) for name in first.hyper}
        self._seeds = np.array([member.ready.config.seed for member in pack], np.int32)
        self._states: State | None = None

    def _compile(self) -> tuple[float, int]:
        """Compile what the runs will call from where they are; returns the seconds, and how many train steps this process
        compiled: of what no run's record has told yet, as what was compiled to be measured."""
        began, first = time.perf_counter(), self._pack[0].ready
        left = [(len(m.ready.rates) - m.step, m.ready.config.steps_per_call) for m in self._pack if m.live]
        wanted = {n for total, stride in left for n in steps.strides(total, stride)}
        programs = [self._program(n, self._shared) for n in wanted]
        new = [each for each in programs if each.train not in _told]
        beside = evaluation.programs(first.task, first.recipe, programs[0], self._mesh) if new else []
        compilation.ready([*(each.train for each in programs), *(each.init for each in programs[:1]), *beside])
        seconds = max([time.perf_counter() - began, *(each.seconds for each in new)]) if new else 0.0
        _told.update(each.train for each in new)
        memory.check(max(each.train.memory_bytes for each in self._programs.values()), len(self._pack))
        return seconds, sum(each.train.fresh for each in new)

    def index(self, member: _Member) -> int | None:
        """Of a run along the axis of runs."""
        return None if self._alone else self._pack.index(member)

    def begin(self) -> None:
        """Take the states of the runs, which have made or restored them, as one."""
        for member in self._pack:
            member.step = int(member.seat.state.step) if member.live else 0
        live = [member for member in self._pack if member.live]
        self._shared = self._shared and len({member.step for member in live}) == 1
        seconds, compiles = self._compile()  # nothing, unless they go on from a checkpoint
        for member in live:
            member.seat.compile_seconds += seconds
            member.seat.compiles += compiles
        if self._alone or not live:
            return
        shardings = live[0].seat.program.shardings
        take = jax.jit(lambda tree, i: jax.tree.map(lambda x: x[i], tree), out_shardings=shardings)
        states = [(member if member.live else live[0]).seat.state for member in self._pack]
        self._states = stacked(states, shardings)
        del states
        for i, member in enumerate(self._pack):
            if member.live:
                member.seat.give()
            member.seat.read = functools.partial(self._read, take, i)

    def _read(self, take: Callable[[Any, int], State], index: int) -> State:
        return take(self._states, index)

    def step(self, live: list[_Member], n: int) -> Fetch:
        """Take n steps of every run; returns what fetches their metrics, once."""
        program = self._program(n, self._shared)
        if self._alone:
            (member,), ready = live, live[0].ready
            batch = data.batches(ready.task, ready.shapes, self._mesh, member.step, n)
            rates, seed = ready.rates[member.step : member.step + n], np.int32(ready.config.seed)
            member.seat.state, metrics = program.train(member.seat.give(), batch, rates, seed, ready.hyper)
        else:
            # A run that has ended goes through the motions, at the rate 0 and on another's data: a step of fewer runs
            # would have to be compiled.
            seen = [member if member.live else live[0] for member in self._pack]
            rates = np.zeros((len(seen), n), np.float32)
            for row, member in zip(rates, self._pack, strict=True):
                row[:] = member.ready.rates[member.step : member.step + n] if member.live else 0.0
            if self._shared:
                batch = data.batches(live[0].ready.task, live[0].ready.shapes, self._mesh, live[0].step, n)
            else:
                tasks, at = [member.ready.task for member in seen], [member.step for member in seen]
                batch = data.packed(tasks, live[0].ready.shapes, self._mesh, at, n)
            self._states, metrics = program.train(self._states, batch, rates, self._seeds, self._hyper)
        return functools.lru_cache(1)(lambda: {name: np.asarray(values) for name, values in metrics.items()})

    def _program(self, n: int, shared: bool) -> steps.Programs:
        if (n, shared) not in self._programs:
            ready, packed = self._pack[0].ready, () if self._alone else (len(self._pack), shared)
            key = ready.recipe, self._mesh, n, ready.shapes, tuple(ready.hyper), *packed
            self._programs[n, shared] = steps.programs(*key)
        return self._programs[n, shared]


def mesh(runs: int) -> Mesh:
    """As many devices as share the runs evenly, along the axis of runs."""
    devices = jax.devices()
    return meshes.build({"run": math.gcd(runs, len(devices))}, devices)


def stacked(states: Sequence[State], shardings: State) -> State:
    """The states of runs, each laid out by `shardings`, as one with the axis of runs in front."""
    ahead = jax.tree.map(lambda s: NamedSharding(s.mesh, PartitionSpec("run", *s.spec)), shardings)
    return jax.jit(lambda *each: jax.tree.map(lambda *x: jnp.stack(x), *each), out_shardings=ahead)(*states)


def _data(config: ConfigDict) -> tuple[Any, ...]:
    """What the batches of runs of one recipe depend on: the data, and the seed of the run, which draws their order."""
    return config.seed, config.batch_size, config.data.to_json_best_effort()
