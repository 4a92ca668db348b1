"""Steps that are timed on one GPU: decoders and a vision transformer, ours and PyTorch's, and tiny runs together and apart.

Products are in bfloat16, parameters and moments in float32. PyTorch's are compiled, with its own flash attention and fused
AdamW. The models are those of `contenders` and `image_contenders`.
"""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks import contenders, image_contenders
from benchmarks.contenders import Built

RUNS = 8  # of a pack


@dataclasses.dataclass(frozen=True)
class Pack:
    """As many runs of one tiny decoder as `RUNS`, which differ in their seeds."""

    width: int
    depth: int
    length: int
    batch: int
    dtype: str = "bfloat16"
    unit: ClassVar[str] = "tokens"

    @property
    def examples(self) -> int:
        """Tokens of a step of all runs."""
        return RUNS * self.batch * self.length

    @property
    def config(self) -> Any:
        """Of a run, complete."""
        from ml_collections import ConfigDict

        from training import config as configs

        model = {"name": "decoder", "width": self.width, "depth": self.depth, "heads": max(self.width // 32, 1)}
        data = {"corpus": "markov", "vocab_size": 64, "seq_len": self.length}
        changes = {"model": model, "data": data, "duration": {"steps": 100_000}, "precision": {"compute": self.dtype}}
        return configs.complete(ConfigDict({"task": "lm", "batch_size": self.batch, **changes}))

    @property
    def flops(self) -> float:
        """FLOPs of the products of a step of all runs."""
        from lm import task
        from training.config import resolve

        return RUNS * self.batch * task.cost(resolve(self.config)).flops_exact


Case = contenders.Shape | image_contenders.Images | Pack
HALF = "bfloat16"
CASES: dict[str, Case] = {
    "decoder-124m": contenders.Shape(12, 768, 12, 1024, 16, 50_304, HALF),
    "decoder-1.3b": contenders.Shape(24, 2048, 16, 2048, 4, 50_304, HALF),
    "vit-b16": image_contenders.Images(128, 12, 768, 12, 16, (224, 224, 3), 1000, HALF),
    "packs": Pack(64, 2, 128, 8),
}
TINY: dict[str, Case] = {
    "decoder-124m": contenders.Shape(2, 32, 2, 16, 2, 64, HALF),
    "decoder-1.3b": contenders.Shape(2, 64, 2, 16, 2, 64, HALF),
    "vit-b16": image_contenders.Images(4, 2, 32, 2, 8, (16, 16, 3), 7, HALF),
    "packs": Pack(32, 1, 16, 2),
}


def of_runs(case: Pack, together: bool) -> Built:
    """A step of every run of a pack, by one program or by one after another."""
    from training.config import resolve
    from training.run_batch import RunBatch, step_inputs
    from training.task import resolve as family_of

    inputs = []
    for seed in range(RUNS):
        config = case.config
        config.seed = seed
        config = resolve(config)
        inputs.append(step_inputs(config, family_of(config.task).build(config)))
    batches = [RunBatch(inputs)] if together else [RunBatch([one]) for one in inputs]
    for batch in batches:
        for index in range(batch.size):
            batch.put(index, batch.init(index))
        batch.start([0] * batch.size)
    done = 0

    def run() -> Any:
        nonlocal done
        for batch in batches:
            at = [done] * batch.size
            fetch = batch.step(batch.batches(at, 1), batch.learning_rates(at, 1))[0]
        done += 1
        return types.SimpleNamespace(item=lambda: fetch()["loss"][0].item())

    return Built(run, sum(batch.compile_seconds for batch in batches))


def torch_device() -> str:
    """Where PyTorch trains."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


DECODER: dict[str, Callable[[Any], Built]] = {
    "ours": contenders.ours,
    "torch": lambda case: contenders.torch_gpt(case, True, torch_device()),
}
CONTENDERS: dict[str, dict[str, Callable[[Any], Built]]] = {
    "decoder-124m": DECODER,
    "decoder-1.3b": DECODER,
    "vit-b16": {
        "ours": image_contenders.ours,
        "torch": lambda case: image_contenders.torch_net(case, True, torch_device()),
    },
    "packs": {"packed": lambda case: of_runs(case, True), "sequence": lambda case: of_runs(case, False)},
}


def device(contender: str) -> dict[str, Any]:
    """The device that a contender trains on, its peak FLOP/s where it is known, and the most memory it held so far."""
    import jax

    from training.cost import peak_flops

    found = jax.local_devices()[0]
    peak = peak_flops(found.device_kind, HALF)
    if contender != "torch":
        stats = found.memory_stats() or {}
        return {"device": found.device_kind, "peak_flops": peak, "peak_bytes": stats.get("peak_bytes_in_use")}
    import torch

    held = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {"device": found.device_kind, "peak_flops": peak, "peak_bytes": held}


def steps(built: Built, count: int) -> float:
    """Run steps, wait for the last; its loss."""
    value: Any = np.float64(np.nan)
    for _ in range(count):
        value = built.step()
    return float(value.item())
