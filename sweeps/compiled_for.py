"""What the compilers of TPUs and GPUs say of a run's train step, on devices that are not there.

The step and the evaluation that a run would call are compiled for a named topology (`training.topology`). Memory is the
compiler's; its estimate of cycles (TPUs) leaves out transfers between devices, Pallas kernels and stalls, so that the model
FLOPs utilisation made of it is an upper bound. Nothing is timed.
"""

import dataclasses
import itertools
import math
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from sweeps.plan import configure
from training import data, evaluation, hlo, mesh as meshes, step as steps, step_spec
from training.config import resolve
from training.errors import Absent, BadInput
from training.nets.stack import REMAT
from training.task import Task, resolve as family_of
from training.topology import Topology

TENSOR = 8  # the largest tensor axis that a search tries
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Report:
    """One run on one topology.

    Attributes:
        topology: its name.
        devices: how many it has.
        mesh: sizes of the axes that are larger than one.
        batch_size: examples of a step.
        remat: what the backward pass computes again, where the model has that key.
        params: parameters.
        fits: whether the compiler, or for GPUs the device's memory, takes the step.
        refusal: what the compiler said where it does not.
        argument_bytes: state and batch of one device.
        temporary_bytes: what a step holds beside them.
        evaluation_bytes: arguments and temporaries of an evaluation.
        limit_bytes: of one device.
        cycles: estimated by the compiler; None: it estimates none.
        seconds: of a step, by its cycles.
        mfu: model FLOPs utilisation in that time, transfers and kernels left out.
        kernels: Pallas kernels in a step by name, which have no estimate, and how often each runs.
        collectives: by kind and mesh axes.
        traffic: ring bytes of a device along the axis "fsdp" (and "context" with it), over those of two gathers and one
            scatter of the parameters.
        left_whole: bytes of parameters that no axis of the mesh splits although one should, by name.
        bubble: share of a step in which a stage of the pipeline has nothing to do, as the schedule has it; None: no stages.
        compile_seconds: on this machine.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    remat: str | None
    params: int
    fits: bool
    refusal: str | None
    argument_bytes: float | None
    temporary_bytes: float | None
    evaluation_bytes: float | None
    limit_bytes: float | None
    cycles: float | None
    seconds: float | None
    mfu: float | None
    kernels: dict[str, int]
    collectives: list[dict[str, Any]]
    traffic: float | None
    left_whole: dict[str, int]
    bubble: float | None
    compile_seconds: float

    @property
    def total_bytes(self) -> float:
        """Arguments and temporaries of a step on one device."""
        return (self.argument_bytes or 0.0) + (self.temporary_bytes or 0.0)


def report(config: ConfigDict, topology: Topology) -> Report:
    """Compile the step of a resolved config for a topology.

    Args:
        config: of the run; where its text is not on this machine, symbols of the same vocabulary take its place.
        topology: devices to compile for.

    Raises:
        BadInput: the mesh or the batch does not fit the devices.
    """
    task, chip = _task(config), topology.accelerator
    mesh = meshes.build(config.mesh, topology.devices)
    data.check_divisible(config, mesh)
    spec, shapes = step_spec.of(task.model, config), data.shapes(task, config.batch_size)
    cost = family_of(config.task).cost(config)
    began = time.perf_counter()
    programs = steps.programs(spec, mesh, 1, shapes, tuple(step_spec.hyper(config, task)))
    known: dict[str, Any] = {
        "topology": topology.name,
        "devices": mesh.size,
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        "batch_size": config.batch_size,
        "remat": config.model.get("remat"),
        "params": cost.params_total,
        "limit_bytes": chip.memory,
        "left_whole": meshes.left_whole(programs.variables["params"], mesh),
        "bubble": schedule.bubble if (schedule := data.pipeline_schedule(config, mesh)) else None,
    }
    try:
        train = programs.train.lower().compile()
        scored = [program.lower().compile() for program in evaluation.jitted(task, spec, programs, mesh)]
    except RuntimeError as error:
        if "cuDNN not found" in str(error):
            raise Absent(
                "model.attention: cudnn needs nvidia-cudnn-cu13 (isoflop[aot-gpu]) to be compiled for"
            ) from error
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        nothing: dict[str, Any] = dict.fromkeys(
            ("argument_bytes", "temporary_bytes", "evaluation_bytes", "cycles", "seconds", "mfu", "traffic")
        )
        return Report(
            **known, **nothing, fits=False, refusal=_refusal(str(error)), kernels={}, collectives=[],
            compile_seconds=time.perf_counter() - began,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    memory: Any = train.memory_analysis()
    program = hlo.computations(train.as_text() or "")
    times = hlo.executions(program)
    cycles, transfers = hlo.cycles(program, times), hlo.collectives(program, times, mesh)
    step_seconds = cycles / chip.clock if cycles and chip.clock else None
    peak = chip.peak.get(config.precision.compute)
    flops = cost.flops_exact_causal * config.batch_size / mesh.size
    return Report(
        **known,
        fits=chip.memory is None or _held(train) <= chip.memory,
        refusal=None,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        evaluation_bytes=max((_held(one) for one in scored), default=None),
        cycles=cycles,
        seconds=step_seconds,
        mfu=flops / step_seconds / peak if step_seconds and peak else None,
        kernels=hlo.kernels(program, times),
        collectives=[dataclasses.asdict(row) for row in transfers],
        traffic=_traffic(transfers, programs, mesh, config.precision.compute),
        compile_seconds=seconds,
    )


def largest_batch(config: ConfigDict, topology: Topology) -> Report:
    """The report of the largest batch that fits: from the config's on it is doubled until the compiler refuses, or halved
    until it does not, then the gap is halved once. Memory is not monotone in the batch near the limit, so every batch is
    compiled.

    Raises:
        BadInput: not even one example a device fits.
    """
    ways = meshes.batch_ways(meshes.build(config.mesh, topology.devices)) * config.replicas.count
    ways *= config.gradient_accumulation_steps
    size = max(config.batch_size // ways, 1)
    best = found = report(_changed(config, {"batch_size": size * ways}), topology)
    grows = found.fits
    while found.fits == grows and (grows or size > 1):
        best, size = found, 2 * size if grows else size // 2
        found = report(_changed(config, {"batch_size": size * ways}), topology)
    best = best if grows else found
    if not best.fits:
        raise BadInput(f"--fit=batch: {ways} examples, one a device, do not fit {topology.name}: {best.refusal}")
    between = 3 * best.batch_size // (2 * ways)
    if between * ways > best.batch_size:
        found = report(_changed(config, {"batch_size": between * ways}), topology)
        best = found if found.fits else best
    return best


def search(config: ConfigDict, topology: Topology, over: Sequence[str]) -> list[Report]:
    """Reports of the meshes and policies of rematerialisation that are asked for, best first: those that fit, by estimated
    seconds, else by memory.

    Args:
        config: of the run.
        topology: devices to compile for.
        over: "mesh", "remat", or both.
    """
    wide = list(_meshes(config, len(topology.devices))) if "mesh" in over else [{}]
    policies = [{"model.remat": name} for name in REMAT] if "remat" in over and "remat" in config.model else [{}]
    reports, refusal = [], ""
    for axes, policy in itertools.product(wide, policies):
        try:
            reports.append(report(_changed(config, axes | policy), topology))
        except Absent:
            raise
        except BadInput as error:  # the batch or the heads do not divide
            refusal = str(error)
    if not reports:
        raise BadInput(f"--search: no choice can be compiled for {topology.name}; the last: {refusal}")
    return sorted(reports, key=lambda r: (not r.fits, r.seconds or 0.0, r.total_bytes))


def _meshes(config: ConfigDict, devices: int) -> Iterator[dict[str, int]]:
    """Sizes of the axes data, fsdp and tensor whose product is the number of devices, over what other axes take."""
    heads = config.model.get("heads") or 1
    devices //= math.prod(
        config.mesh[axis] for axis in ("replica", "stage", "expert", "context") if config.mesh[axis] > 0
    )
    for tensor in (n for n in (1, 2, 4, TENSOR) if heads % n == 0 and devices % n == 0):
        for fsdp in (n for n in range(1, devices // tensor + 1) if devices // tensor % n == 0):
            yield {"mesh.tensor": tensor, "mesh.fsdp": fsdp, "mesh.data": devices // tensor // fsdp}


def _task(config: ConfigDict) -> Task:
    family = family_of(config.task)
    try:
        return family.build(config)
    except Absent:
        return family.build(family.stand_in(config))


def _changed(config: ConfigDict, overrides: dict[str, Any]) -> ConfigDict:
    """A resolved config with other values, its shape and rates kept."""
    return resolve(configure(config, overrides))


def _held(compiled: Any) -> float:
    memory = compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def _refusal(message: str) -> str:
    match = re.search(r"Ran out of memory[^.]*\.[^.]*\.|Used [\d.]+\w of [\d.]+\w hbm[^.]*\.[^.]*", message)
    return " ".join((match[0] if match else message.splitlines()[0]).split())


def _traffic(transfers: Sequence[hlo.Collective], programs: steps.Programs, mesh: Any, compute: str) -> float | None:
    """Ring bytes along the axes that split parameters ("fsdp", with "context"), over two gathers and one scatter of what
    they split, in the dtype of the products. What attention gathers along "context" alone is left out."""
    along = set(meshes.axes_of(meshes.RULES["embed"]))
    size = math.prod(mesh.shape[axis] for axis in along)
    if mesh.shape["fsdp"] == 1:
        return None
    parameters = zip(jax.tree.leaves(programs.abstract.params), jax.tree.leaves(programs.shardings.params), strict=True)
    split = 0.0
    for leaf, where in parameters:
        names = {name for entry in where.spec for name in meshes.axes_of(entry)}
        if "fsdp" in names:
            others = math.prod(mesh.shape[name] for name in names - along)
            split += math.prod(leaf.shape) / others * hlo.BYTES["bf16" if compute == "bfloat16" else "f32"]
    sent = sum(row.ring_bytes for row in transfers if "fsdp" in row.axes)
    return sent / (3 * split * (size - 1) / size) if split else None
