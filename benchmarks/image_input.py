"""Whether images reach the step in time: JPEG files decoded for every batch, or once, into the store that a run reads.

    python -m benchmarks.image_input --out benchmarks/results/image_input.json

The files are drawn here: smooth colours with some noise, 256 pixels wide as photographs are kept for training. `decoded`
reads each batch from the files, a thread a core. `stored` is what a run does: its batches come from the prepared arrays,
in the order of a run. `procedural` draws its images. The step is that of ViT-Ti/16 at 224 pixels and of the small ViT
of the studies, on this machine: a source starves a step that eats faster than it gives.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FILES, SIDE, SIZE, BATCH, ROUNDS = 600, 256, 224, 128, 5


def draw(folder: Path) -> None:
    """JPEG files of two classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(FILES):
        place = folder / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((SIDE, SIDE), 3)
        noisy = np.asarray(smooth, np.int16) + rng.integers(-20, 21, (SIDE, SIDE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(place / f"{i:04d}.jpg", quality=90)


def rate(batch: Callable[[int], Any]) -> dict[str, float]:
    """Images a second, the median over rounds, and what one costs in seconds of all cores."""
    batch(0)
    rates, began = [], time.process_time()
    for k in range(1, ROUNDS + 1):
        start = time.perf_counter()
        batch(k)
        rates.append(BATCH / (time.perf_counter() - start))
    spent = (time.process_time() - began) / ROUNDS / BATCH
    return {"images_per_second": float(np.median(rates)), "cpu_ms_per_image": 1e3 * spent}


def sources(folder: Path) -> dict[str, dict[str, float]]:
    """Images a second by source."""
    from vision import datasets

    def section(**args: Any) -> Any:
        data = datasets.defaults()
        data.cache_dir = str(folder / "cache")
        data.dataset = args.pop("dataset")
        data.dataset_args.update(args)
        return data

    photographs = section(dataset="folder", path=str(folder / "files"), size=SIZE)
    examples: Any = datasets.open_source(photographs)
    train = examples.examples()["train"]
    start = time.perf_counter()
    stored = datasets.load(photographs).split("train")
    prepared = FILES / (time.perf_counter() - start)
    drawn = datasets.load(section(dataset="procedural", noise=0.5, shift=1, negatives=False)).split("train")
    order = np.random.default_rng(1)
    rates = {
        "decoded": rate(lambda k: train.read(order.integers(0, train.count, BATCH))),
        "stored": rate(lambda k: stored.batch(0, k, BATCH)),
        "procedural": rate(lambda k: drawn.batch(0, k, BATCH)),
    }
    return {"prepared": {"images_per_second": prepared}, **rates}


def steps() -> dict[str, dict[str, float]]:
    """Images a second that a training step eats."""
    from benchmarks.contenders import engine
    from training.nets.block_config import compose
    from vision.augment import Augment
    from vision.task import ImageModel
    from vision.vit import BLOCKS, ViT

    def vit(classes: int, image: tuple[int, int, int], patch: int, **shape: int) -> Any:
        return compose(ViT, classes=classes, image=image, patch=patch, **BLOCKS, **shape)

    hyper = {"dropout": 0.0, "stochastic_depth": 0.0, "label_smoothing": 0.0, "init_scale": 1.0}
    shapes = {
        "vit-ti16-224": (vit(1000, (SIZE, SIZE, 3), 16, depth=12, width=192, heads=3, mlp_width=768), 8),
        "vit-study": (vit(10, (16, 16, 1), 4, depth=2, width=32, heads=2, mlp_width=128), BATCH),
    }
    rates = {}
    for name, (model, rows) in shapes.items():
        channels = model.image[2]
        images = np.random.default_rng(0).integers(0, 256, (rows, *model.image)).astype(np.uint8)
        batch = {"image": images, "label": np.zeros(rows, np.int32)}
        step = engine(ImageModel(model, (0.5,) * channels, (0.25,) * channels, Augment()), hyper, batch).step
        step().item()
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            step().item()
            times.append(time.perf_counter() - start)
        rates[name] = {"images_per_second": rows / float(np.median(times))}
    return rates


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "files")
        report = {"cores": len(os.sched_getaffinity(0)), "sources": sources(Path(folder)), "steps": steps()}
    text = json.dumps(report, indent=1) + "\n"
    print(text, end="")
    if out:
        out.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
