"""A small sweep of language models that is killed, starved and deceived, and must end as if it had not been.

python tests/faults/harness.py --kills 200 --each 10 --out benchmarks/results/faults.json
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from training.lines import read_metrics

ROOT, SITE = Path(__file__).parents[2], Path(__file__).parent / "site"
# What runs for seconds is not worth optimising; the older emitter of loops, in one piece, compiles quickest.
XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
GRACE = 75.0  # seconds after which what a killed launcher left must be gone: its workers save first
LIMIT = 300.0  # seconds of one command
# What depends on the clock, on how often a run was cut, or on where it ran.
OWN = {"wall_seconds", "train_seconds", "compile_seconds", "compiles", "tokens_per_second", "ended_at", "mfu", "pack"}
OWN |= {"continued_from", "damaged_checkpoints", "attempts", "hardware_seconds", "git_revision"}
CONFIG = '''"""The sweep of the faults: tests/faults/harness.py."""

from ml_collections import ConfigDict

from sweeps.design import axis, branch, product


def get_config():
    """Widths by seeds."""
    base = {{
        "task": "lm",
        "batch_size": 4,
        "steps_per_call": 2,
        "model": {{"depth": 1, "heads": 2}},
        "data": {{"corpus": "files", "corpus_args": {{"paths": {text!r}}}, "tokenizer": "bytes", "seq_len": 32}},
        "evaluation": {{"tokens": 4096, "batch_size": 4}},
        "mesh": {{"data": 1}},
        "checkpoint": {{"every_steps": 10}},
        "log": {{"every": 1, "evaluate_every": {steps} // 2}},
    }}
    base["data"]["eval_fraction"] = 0.2
    design = product(axis("model.width", {widths}), axis("seed", range({seeds})))
    if {at}:
        design = branch(design, {at}, duration="duration.steps")
    else:
        base["duration"] = {{"steps": {steps}}}
    return ConfigDict({{"name": "faults", "base": base, "design": design}})
'''
# Patterns of each kind of write, and among how many of its first events in a process a kill is drawn.
WRITES = {
    "sweep": (r"sweep\.json", 2),
    "lease": (r"/leases/|/claim$", 8),
    "config": (r"/runs/.*(config|environment)\.json", 4),
    "metrics": ("@metrics", 20),
    "checkpoint": (r"/checkpoints/", 60),
    "record": (r"result\.json", 4),
    "preparation": (r"/cache/(?!compiled)", 8),
    "compiled": (r"/cache/compiled", 8),
    "collection": (r"\.parquet", 6),
}
LONG = {"steps": 400, "widths": (8, 16, 24), "seeds": 4}  # of the sweep of random kills


@dataclasses.dataclass
class Report:
    """What was done, and what came of it."""

    injected: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    survived: int = 0
    sweeps: int = 0
    launches: int = 0
    lost_steps: list[int] = dataclasses.field(default_factory=list)
    lost_records: int = 0
    torn: list[str] = dataclasses.field(default_factory=list)
    orphans: int = 0
    differences: list[str] = dataclasses.field(default_factory=list)
    leftovers: int = 0

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        lost = sorted(self.lost_steps)
        return {
            "injected": sum(self.injected.values()),
            "injected_by_kind": dict(sorted(self.injected.items())),
            "survived": self.survived,
            "sweeps": self.sweeps,
            "launches": self.launches,
            "lost_steps": {"attempts": len(lost), "sum": sum(lost), "largest": lost[-1] if lost else 0},
            "lost_records": self.lost_records,
            "torn_files": self.torn,
            "orphans": self.orphans,
            "differences": self.differences,
            "temporaries_left": self.leftovers,
        }


class Scene:
    """A folder with a corpus, a config, a cache and faults, and commands that run in it."""

    def __init__(
        self,
        folder: Path,
        steps: int = 30,
        widths: tuple[int, ...] = (8, 16),
        seeds: int = 2,
        flags: tuple[str, ...] = ("--workers=2",),
        at: tuple[int, ...] = (),
    ):
        self.flags = flags
        self.folder, self.path, self.cache = folder, folder / "sweep", folder / "cache"
        self.faults, self.mark = folder / "faults", uuid.uuid4().hex
        self.faults.mkdir(parents=True, exist_ok=True)
        rng, words = random.Random(0), ["law", "loss", "size", "data", "step", "curve", "fit", "\n"]
        (folder / "text").mkdir(exist_ok=True)
        for i in range(32):
            text = folder / "text" / f"{i}.txt"
            text.write_text(" ".join(rng.choices(words, k=2_000)))
            os.utime(text, (1e9, 1e9))  # the corpus is known by it
        self.config = folder / "config.py"
        self.config.write_text(
            CONFIG.format(steps=steps, text=str(folder / "text" / "*.txt"), widths=tuple(widths), seeds=seeds, at=at)
        )
        self.records: dict[str, tuple[int, int]] = {}

    def start(self, *arguments: str, log: str = "out.txt") -> subprocess.Popen[str]:
        """A command of isoflop, in a session of its own."""
        environment = os.environ | {
            "ISOFLOP_FAULTS": str(self.faults),
            "ISOFLOP_CACHE": str(self.cache),
            "ISOFLOP_MARK": self.mark,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": XLA_FLAGS,
            "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with open(self.folder / log, "a") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "isoflop", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )

    def sweep(self, *more: str, **options: Any) -> subprocess.Popen[str]:
        """The sweep, begun or continued."""
        return self.start(
            "sweep",
            f"--config={self.config}",
            f"--workdir={self.path}",
            "--pack=1",
            *(more or self.flags),
            **options,
        )

    def run(self, *arguments: str) -> int:
        """A command to its end; its exit code."""
        return self.start(*arguments).wait(LIMIT)

    def finish(self) -> int:
        """The sweep to its end, undisturbed; the exit code."""
        return self.sweep().wait(LIMIT)

    @contextlib.contextmanager
    def fault(self, name: str, **fault: Any) -> Iterator[Path]:
        """Let a fault be there; `site/sitecustomize.py` says what it may hold."""
        file = self.faults / f"{name}.fault"
        file.write_text(json.dumps(fault))
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)

    def sent(self) -> list[dict[str, Any]]:
        """The signals that faults have sent."""
        return self._noted("sent.jsonl")

    def ended(self) -> collections.Counter[str]:
        """How often the record of each run was put in place."""
        return collections.Counter(line["run"] for line in self._noted("ended.jsonl"))

    def processes(self) -> list[int]:
        """What runs of this scene."""
        found = []
        mark = f"ISOFLOP_MARK={self.mark}".encode()
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    alive = (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
                    if alive and mark in (folder / "environ").read_bytes().split(b"\0"):
                        found.append(int(folder.name))
        return found

    def quiet(self, seconds: float = GRACE) -> int:
        """Wait until nothing of this scene runs; how many processes still do then, which are ended."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)

    def look(self, report: Report) -> None:
        """Note what is torn, and which records are gone or were written again."""
        for file in [*self.path.glob("*.json"), *self.path.glob("runs/*/*.json"), *self.path.glob("*.parquet")]:
            if not file.name.startswith("."):
                try:
                    pq.read_metadata(file) if file.suffix == ".parquet" else json.loads(file.read_text())
                except Exception as error:
                    report.torn.append(f"{file.relative_to(self.folder)}: {error}")
        now = {file.parent.name: file.stat() for file in self.path.glob("runs/*/result.json")}
        stamps = {run: (stat.st_ino, stat.st_mtime_ns) for run, stat in now.items()}
        report.lost_records += sum(stamps.get(run) != stamp for run, stamp in self.records.items())
        self.records = stamps

    def clear(self, prepared: bool = False) -> None:
        """Forget the sweep, and what was `prepared` for it."""
        for folder in (self.path, self.faults, *([self.cache] if prepared else [])):
            shutil.rmtree(folder, ignore_errors=True)
        self.faults.mkdir()
        self.records = {}

    def _noted(self, name: str) -> list[dict[str, Any]]:
        file = self.faults / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def lost_steps(run: Path) -> list[int]:
    """The steps that each attempt at a run made in vain: the next one made them again."""
    lines = read_metrics(run, every_attempt=True)
    first, last = {}, {}
    for line in lines:
        if "loss" in line:
            first.setdefault(line["attempt"], line["step"])
            last[line["attempt"]] = line["step"]
    attempts = sorted(first)
    return [max(last[a] - first[b] + 1, 0) for a, b in itertools.pairwise(attempts)]


def outcome(path: Path) -> dict[str, Any]:
    """What a sweep came to, without what may differ: records, metrics and final parameters of each run, to the bit."""
    found = {}
    for file in sorted(path.glob("runs/*/result.json")):
        run = file.parent
        record = {name: value for name, value in json.loads(file.read_text()).items() if name not in OWN}
        lines = [
            {name: value for name, value in line.items() if name not in ("seconds", "attempt")}
            for line in read_metrics(run)
        ]
        found[run.name] = {"record": record, "metrics": lines, "params": _params(run)}
    return found


def differences(reference: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Where two outcomes differ: run, part and name."""
    found = [f"{run}: absent" for run in reference.keys() - other.keys()]
    found += [f"{run}: unknown" for run in other.keys() - reference.keys()]
    for run in reference.keys() & other.keys():
        one, two = reference[run], other[run]
        names = one["record"].keys() | two["record"].keys()
        found += [
            f"{run}: record: {name}" for name in sorted(names) if one["record"].get(name) != two["record"].get(name)
        ]
        found += [f"{run}: {part}" for part in ("metrics", "params") if one[part] != two[part]]
    return found


def _params(run: Path) -> str:
    import jax
    import numpy as np

    from training import checkpoint

    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(checkpoint.load_params(run)):
        hashed.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def undisturbed(folder: Path, **sizes: Any) -> dict[str, Any]:
    """The outcome of the sweep without faults, in the folder where the faults will be: its corpus is known by its path."""
    scene = Scene(folder, **sizes)
    if code := scene.finish():
        raise RuntimeError(f"the sweep without faults ended with {code}: {(folder / 'out.txt').read_text()[-2000:]}")
    found = outcome(scene.path)
    scene.clear()
    return found


def judge(scene: Scene, reference: Mapping[str, Any], report: Report) -> None:
    """Finish the sweep, and compare it with the undisturbed one."""
    scene.look(report)
    code = scene.finish()
    report.launches += 1
    if code:
        report.differences.append(
            f"the last command ended with {code}: {(scene.folder / 'out.txt').read_text()[-500:]}"
        )
    scene.look(report)
    report.sweeps += 1
    for run in scene.path.glob("runs/*"):
        report.lost_steps += lost_steps(run)
    report.differences += differences(reference, outcome(scene.path))
    report.leftovers += sum(1 for file in scene.path.rglob(".*") if file.is_file())
    report.orphans += scene.quiet(5.0)


def random_kills(scene: Scene, reference: Mapping[str, Any], kills: int, seed: int, say: Any = print) -> Report:
    """Kill processes of a sweep at random moments, launchers and workers, until as many have been killed.

    A sweep that ends before is compared, and begun anew.
    """
    rng, report, process = random.Random(seed), Report(), None
    done = 0
    while done < kills:
        if process is None or process.poll() is not None:
            if process is not None and process.returncode == 0:
                judge(scene, reference, report)
                scene.clear()
            if rng.random() < 0.5:  # at once, while workers of a dead launcher still save; or after them
                report.orphans += scene.quiet()
                scene.look(report)
            process = scene.sweep()
            report.launches += 1
            time.sleep(rng.uniform(0, 8))
        else:
            time.sleep(rng.uniform(0, 6))
        if process.poll() is not None:
            continue
        workers = [pid for pid in scene.processes() if pid != process.pid]
        hit_launcher = not workers or rng.random() < 0.25
        number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid if hit_launcher else rng.choice(workers), number)
            report.injected[f"random {number.name} of {'the launcher' if hit_launcher else 'a worker'}"] += 1
            done += 1
            if hit_launcher:
                process.wait(LIMIT)
            if done % 20 == 0:
                say(f"{done} of {kills} random kills")
    if process is not None:
        process.kill()
        process.wait()
    report.orphans += scene.quiet()
    judge(scene, reference, report)
    report.survived = done
    return report


def kills_inside(
    scene: Scene, reference: Mapping[str, Any], kind: str, times: int, seed: int, say: Any = print
) -> Report:
    """Kill processes inside one kind of write, at one of its first events in a process, as often as that."""
    rng, report = random.Random(f"{kind} {seed}"), Report()
    collecting = kind == "collection"
    attempt = 0
    while (done := report.injected[f"inside {kind}"]) < times:
        if attempt > 6 * times:
            raise RuntimeError(f"{kind}: only {done} of {times} kills came about")
        attempt += 1
        if attempt == 1 and kind in ("preparation", "compiled"):
            scene.clear(prepared=True)
        if collecting and not any(scene.path.glob("runs/*/result.json")):
            scene.finish()
        for taken in scene.faults.glob("*.taken"):
            taken.unlink()
        before = len(scene.sent())
        event, most = WRITES[kind]
        fault = {"event": event, "first": 1 + rng.randrange(most), "signal": signal.SIGKILL, "times": 2}
        with scene.fault(kind, **fault):
            code = scene.run("collect", str(scene.path)) if collecting else scene.sweep().wait(LIMIT)
        report.launches += 1
        report.injected[f"inside {kind}"] += len(scene.sent()) - before
        report.orphans += scene.quiet()
        scene.look(report)
        if code == 0 and not collecting:
            judge(scene, reference, report)
            scene.clear(prepared=kind in ("preparation", "compiled"))
        elif collecting:
            for name in ("collected", "curves", "runs"):
                (scene.path / f"{name}.parquet").unlink(missing_ok=True)
    judge(scene, reference, report)
    if collecting and scene.run("collect", str(scene.path)):
        report.differences.append("the last collection failed")
    scene.clear()
    report.survived = report.injected[f"inside {kind}"]
    say(f"{kind}: {report.survived} kills")
    return report


def merged(reports: list[Report]) -> Report:
    """The sums of reports."""
    total = Report()
    for report in reports:
        for field in dataclasses.fields(Report):
            setattr(total, field.name, getattr(total, field.name) + getattr(report, field.name))
    return total


def main() -> int:
    """The whole campaign, as a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at random moments")
    parser.add_argument("--each", type=int, default=10, help="inside each kind of write")
    parser.add_argument("--kinds", default=",".join(WRITES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    began, reports = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        inside, folder = Path(name, "inside"), Path(name, "random")
        if arguments.each:
            reference = undisturbed(inside)
            scene = Scene(inside)
            for kind in arguments.kinds.split(","):
                reports.append(kills_inside(scene, reference, kind, arguments.each, arguments.seed, say))
        if arguments.kills:
            reference = undisturbed(folder, **LONG)
            reports.append(random_kills(Scene(folder, **LONG), reference, arguments.kills, arguments.seed, say))
    facts = merged(reports).facts() | {"seconds": round(time.monotonic() - began), "cores": os.cpu_count()}
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    wrong = facts["torn_files"] or facts["differences"] or facts["orphans"] or facts["lost_records"]
    return 1 if wrong else 0


def say(text: str) -> None:
    """For people who wait."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
