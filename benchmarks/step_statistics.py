"""What statistics by layer, QK-clip and the gradient noise scale cost: CPU seconds of a train step, with over without.

    python -m benchmarks.step_statistics

Steps are taken in turn, so that what else the machine does falls on all alike; JSON with the median over rounds.
"""

import json
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from lm import task as family
from training.config import complete, resolve
from training.run_batch import RunBatch, step_inputs

ROUNDS, STEPS = 5, 2
CASES = {
    "off": {},
    "statistics, every step": {"log.statistics": 1, "log.every": 1},
    "statistics, every 100 steps": {"log.statistics": 100},
    "qk_clip": {"optimizer.qk_clip": 100.0},
    "two micro-batches": {"gradient_accumulation_steps": 2},
    "two micro-batches, gradient_noise": {"gradient_accumulation_steps": 2, "log.gradient_noise": 100},
}


def config(**changes: object) -> ConfigDict:
    """A decoder of four blocks of width 128 on windows of 256 tokens."""
    partial = {
        "task": "lm",
        "batch_size": 8,
        "duration": {"steps": 1000},
        "mesh": {"data": 1},
        "model": {"name": "decoder", "width": 128, "depth": 4, "heads": 4, "mlp_width": 512, "scan": True},
        "data": {"corpus": "markov", "seq_len": 256},
    }
    full = complete(ConfigDict(partial))
    full.update_from_flattened_dict(changes)
    return resolve(full)


def stepper(**changes: object) -> Callable[[], float]:
    """A function that takes `STEPS` train steps and returns their CPU seconds."""
    full = config(**changes)
    batch = RunBatch([step_inputs(full, family.build(full))])
    batch.put(0, batch.init(0))
    batch.start([0])
    done = 0

    def take() -> float:
        nonlocal done
        batches = [batch.batches([done + i], 1) for i in range(STEPS)]
        jax.block_until_ready(batch.state(0).params)
        began = time.process_time()
        for own in batches:
            batch.step(own, np.full((1, 1), 1e-3, np.float32))
        jax.block_until_ready(batch.state(0).params)
        done += STEPS
        return time.process_time() - began

    return take


def main() -> None:
    """Print the ratios as JSON."""
    steppers = {name: stepper(**changes) for name, changes in CASES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for round_ in range(ROUNDS + 1):
        for name, take in steppers.items():
            spent = take()
            if round_:  # the first warms up
                seconds[name].append(spent / STEPS)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = {name: "two micro-batches" if name.startswith("two") else "off" for name in medians}
    print(
        json.dumps(
            {
                name: {"cpu_seconds": round(value, 4), "ratio": round(value / medians[base[name]], 3)}
                for name, value in medians.items()
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
