"""What a compiled program says of itself: collectives and the mesh axes they span, and the compiler's estimate of cycles.

Only the text of the program is read (`jax.stages.Compiled.as_text`). TPU compilers write `estimated_cycles` on fusions and
plain operations, not on collectives, Pallas kernels and asynchronous copies. The body of a loop stands once in the text; it
is counted as often as it runs.
"""

import dataclasses
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
BYTES |= {"u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "s4": 0.5, "u4": 0.5}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations|async_wrapped)=(?:\{([^}]*)\}|%?([\w.-]+))"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: its name, the text of its result's shape, its operation, and the rest of the line."""

    name: str
    shape: str
    operation: str
    text: str

    @property
    def called(self) -> list[str]:
        """Computations that it calls."""
        return [name.strip("% ") for match in _CALLED.finditer(self.text) for name in (match[1] or match[2]).split(",")]


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same mesh axes.

    Attributes:
      kind: a name in `COLLECTIVES`.
      axes: of the mesh, along which the devices of a group differ.
      count: how often one runs in a call.
      ring_bytes: what a device sends over a ring in a call: of n devices a gather or a scatter of B bytes sends
        B (n - 1) / n, an all-reduce twice as much.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    ring_bytes: float


def computations(text: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation by its name; the entry is "ENTRY"."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    for line in text.splitlines():
        if current is None:
            if line.endswith("{") and not line.startswith(" ") and "(" in line:
                name = "ENTRY" if line.startswith("ENTRY") else line.split()[0].lstrip("%")
                current = found.setdefault(name, [])
        elif line == "}":
            current = None
        elif match := _INSTRUCTION.match(line):
            shape, operation, rest = _split(match[2])
            current.append(Instruction(match[1], shape, operation, rest))
    return found


def _split(text: str) -> tuple[str, str, str]:
    """Shape, operation and the rest of what follows the equals sign of an instruction."""
    if text.startswith("("):
        depths = itertools.accumulate((character == "(") - (character == ")") for character in text)
        end = next(i for i, depth in enumerate(depths) if depth == 0)
        shape, rest = text[: end + 1], text[end + 1 :].lstrip()
    else:
        shape, _, rest = text.partition(" ")
    operation, _, rest = rest.partition("(")
    return shape, operation, rest


def executions(program: dict[str, list[Instruction]]) -> Counter[str]:
    """How often each computation runs in a call of the program; the branches of a conditional count as if all ran."""
    times: Counter[str] = Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for instruction in program[name]:
            inner = count
            if instruction.operation == "while":
                inner = count * _trips(program, instruction)
            for called in instruction.called:
                if called in program:
                    visit(called, inner)

    visit("ENTRY", 1)
    return times


def _trips(program: dict[str, list[Instruction]], loop: Instruction) -> int:
    """How often a loop runs: what the compiler says, else the bound of its condition over the step of its counter."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text):
        return int(known[1])
    parts = dict(re.findall(r"(condition|body)=%?([\w.-]+)", loop.text))
    bounds = [int(n) for n in _constants(program, parts.get("condition", ""))]
    steps = [int(n) for n in _added(program, parts.get("body", ""))]
    return max(bounds, default=1) // max(min((n for n in steps if n > 0), default=1), 1)


def _constants(program: dict[str, list[Instruction]], name: str) -> Iterator[str]:
    for instruction in program.get(name, []):
        if instruction.operation == "constant" and instruction.shape.startswith(("s32[]", "u32[]")):
            yield from re.findall(r"^(\d+)\)", instruction.text)
        for called in instruction.called:
            yield from _constants(program, called)


def _added(program: dict[str, list[Instruction]], name: str) -> Iterator[str]:
    """Constants that scalars of a computation are increased by."""
    constants = {i.name: i.text.split(")")[0] for i in program.get(name, []) if i.operation == "constant"}
    for instruction in program.get(name, []):
        if instruction.operation == "add" and instruction.shape.startswith(("s32[]", "u32[]")):
            for operand in re.findall(r"%([\w.-]+)", instruction.text.split(")")[0]):
                if constants.get(operand, "").isdigit():
                    yield constants[operand]


def cycles(program: dict[str, list[Instruction]], times: Counter[str]) -> float | None:
    """The compiler's estimate of the cycles of a call, without collectives, kernels and copies; None: it made none."""
    found = [
        times[name] * int(number)
        for name, instructions in program.items()
        for instruction in instructions
        for number in re.findall(r'"estimated_cycles":"(\d+)"', instruction.text)
    ]
    return float(sum(found)) if found else None


def kernels(program: dict[str, list[Instruction]], times: Counter[str]) -> dict[str, int]:
    """Pallas kernels by name, and how often each runs in a call."""
    found: Counter[str] = Counter()
    for name, instructions in program.items():
        for instruction in instructions:
            if 'custom_call_target="tpu_custom_call"' in instruction.text:
                label = re.search(r'kernel_name = "([^"]+)"|op_name="[^"]*/([\w.-]+)"', instruction.text)
                key = (
                    next((group for group in label.groups() if group), instruction.name) if label else instruction.name
                )
                found[key] += times[name]
    return dict(found)


def collectives(program: dict[str, list[Instruction]], times: Counter[str], mesh: Mesh) -> list[Collective]:
    """The collectives of a call by kind and mesh axes, largest traffic first.

    Args:
      program: from `computations`.
      times: from `executions`.
      mesh: that it was compiled for, whose devices are numbered in its order.
    """
    counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
    sent: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
    fused = {name for body in program.values() for i in body if i.operation == "fusion" for name in i.called}
    channels: set[str] = set()
    for name, instructions in program.items():
        scattered = _scatters(program, name)
        for instruction in instructions:
            kind = instruction.operation.removesuffix("-start")
            if kind not in COLLECTIVES or not times[name]:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.text)
            if channel and name in fused:  # a collective that goes on beside several fusions stands in each of them
                if channel[1] in channels:
                    continue
                channels.add(channel[1])
            groups = _groups(instruction.text, mesh.size)
            size, axes = max(map(len, groups), default=1), _axes(groups, mesh)
            if size < 2:
                continue
            held = _bytes(_result(instruction))
            kind = "reduce-scatter" if kind == "all-reduce" and scattered else kind
            share = (size - 1) / size
            factor = {"all-reduce": 2 * share, "reduce-scatter": share if scattered else size * share}
            counts[kind, axes] += times[name]
            sent[kind, axes] += times[name] * held * factor.get(kind, 1.0 if kind == "collective-permute" else share)
    rows = [Collective(kind, axes, counts[kind, axes], total) for (kind, axes), total in sent.items()]
    return sorted(rows, key=lambda row: -row.ring_bytes)


def _scatters(program: dict[str, list[Instruction]], name: str) -> bool:
    """Whether a computation is a fusion that scatters what its all-reduce sums."""
    emitter = "AllReduceScatterFusion"
    return any(name in i.called and emitter in i.text for body in program.values() for i in body)


def _result(collective: Instruction) -> str:
    """The shape of the result; gathers, scatters and permutes that are started have (operands, results, ...)."""
    if collective.operation not in ("all-gather-start", "reduce-scatter-start", "collective-permute-start"):
        return collective.shape
    depth, parts = 0, [""]
    for character in collective.shape[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts[1]


def _bytes(shape: str) -> float:
    """Bytes of an array or a tuple of arrays."""
    return sum(
        BYTES.get(dtype, 4) * math.prod(int(n) for n in sides.split(",") if n)
        for dtype, sides in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape)
    )


def _groups(text: str, devices: int) -> list[list[int]]:
    """The groups of devices that a collective joins, in any of the notations of XLA.

    Raises:
      ValueError: the notation is another one.
    """
    if match := re.search(
        r"replica_groups=mesh\[([^\]]+)\](?:, device_ids=\(([^)]*(?:\([\d,]+\))?)\))? \{([^}]*)\}", text
    ):
        axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        order = _iota(match[2]) if match[2] else np.arange(math.prod(axes.values()))
        joined = re.findall(r"'(\w+)'", match[3])
        if not set(joined) <= set(axes) or order.size != math.prod(axes.values()):
            raise ValueError(f"groups of devices in an unknown notation: {match[0]}")
        others = [name for name in axes if name not in joined]
        positions = [list(axes).index(name) for name in (*others, *joined)]
        rows = order.reshape(tuple(axes.values())).transpose(positions)
        return rows.reshape(-1, math.prod(axes[name] for name in joined)).tolist()
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        rows = int(match[1].split(",")[0])
        return _iota(match[2]).reshape(rows, -1).tolist()
    if match := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", text):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", match[1])]
    if match := re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", text):
        return [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d, ]+)\}", match[1])]
    if match := re.search(r"replica_groups=(?!\{\})\S+", text):
        raise ValueError(f"groups of devices in an unknown notation: {match[0]}")
    return [list(range(devices))]


def _iota(text: str) -> np.ndarray:
    """Device numbers written as `[4,16]T(1,0)`: those of an array of this shape, its axes transposed, flat."""
    shape, _, axes = text.strip("[").partition("]")
    order = np.arange(math.prod(int(n) for n in shape.split(","))).reshape([int(n) for n in shape.split(",")])
    return (order.transpose([int(n) for n in axes[2:-1].split(",")]) if axes else order).reshape(-1)


def _axes(groups: Sequence[Sequence[int]], mesh: Mesh) -> tuple[str, ...]:
    """Mesh axes along which the devices of a group differ."""
    varying = set()
    for group in groups:
        places = np.array(np.unravel_index(np.array(group), mesh.devices.shape))
        varying |= {mesh.axis_names[i] for i, row in enumerate(places) if len(set(row.tolist())) > 1}
    return tuple(axis for axis in mesh.axis_names if axis in varying)
