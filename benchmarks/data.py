"""`python -m benchmarks data`: which is slower, reading images or training on them.

Images per second of decoding and cropping by one worker and by several, of the augmentation that is
left to the device, and of whole training steps on images in memory:

    python -m benchmarks data --data PATH/TO/IMAGES --image-size 224 --encoder resnet50

The step is that of the framework's own trainer, SimCLR. The augmentation's rate is that of the time
which steps take longer with it than without; where that is lost in noise, none is given.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fmicl_recipes.batches import Batches
from fmicl_recipes.choices import FRAMEWORKS
from fmicl_recipes.data import ImageData, StoredImages, load_images
from fmicl_recipes.loading import PACKAGES
from fmicl_recipes.run_folder import RunFolder
from fmicl_recipes.settings import TrainSettings
from fmicl_recipes.stream import default_workers, stream

#: Batches of an epoch of the steps that are timed, and epochs, the fastest of which counts.
BATCHES, EPOCHS = 4, 2
#: Strengths of an augmentation that does nearly nothing, as two views may not be the same.
NEARLY_OFF = {"jitter": 0.0, "blur": 0.0, "grayscale": 0.0}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one table, and say what limits."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks data", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", required=True, help="data set, as fmicl train takes it")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--framework", choices=FRAMEWORKS, default="torch")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--workers", type=int, default=default_workers())
    options = parser.parse_args(arguments)
    settings = TrainSettings(
        data=options.data, image_size=options.image_size, batch_size=options.batch_size,
        framework=options.framework, encoder=options.encoder, width=options.width,
        augmentation="photo", cache="disk", epochs=EPOCHS,
    )  # fmt: skip
    data = load_images(options.data, image_size=options.image_size, cache="disk",
                       workers=options.workers)  # fmt: skip
    rates = measure(settings, data, options.workers)
    for name, rate in rates.items():
        print(f"{name:<40} {rate:>10,.0f} images/s")
    print(verdict(rates, options.workers))


def measure(settings: TrainSettings, data: ImageData, workers: int) -> dict[str, float]:
    """Images per second of every part, by its name.

    Args:
        settings: settings of the run that is timed.
        data: images of the run, as `StoredImages`.
        workers: number of processes that decode.
    """
    batches = Batches(data, settings)
    size = settings.batch_size
    rates = {"decoding and cropping, one worker": size / _seconds_of_a_batch(batches)}
    if workers > 1:
        rates[f"decoding and cropping, {workers} workers"] = size / _seconds_streamed(
            batches, workers
        )
    with_it = _seconds_of_a_step(settings, data)
    without = _seconds_of_a_step(dataclasses.replace(settings, **NEARLY_OFF), data)
    if with_it > 1.02 * without:
        rates["augmentation on the device"] = size / (with_it - without)
    return rates | {"training step, images in memory": size / with_it}


def verdict(rates: dict[str, float], workers: int) -> str:
    """What limits training, and the number of workers with which the step does."""
    one, step = rates["decoding and cropping, one worker"], rates["training step, images in memory"]
    enough = math.ceil(step / one)
    read = rates.get(f"decoding and cropping, {workers} workers", one)
    if read >= step:
        return f"The step limits. {enough} of {workers} workers are enough."
    return f"Reading limits. With {enough} workers, each on a core of its own, the step would."


def _seconds_of_a_batch(batches: Batches) -> float:
    batches[0]
    times = []
    for step in range(min(3, len(batches))):
        start = time.process_time()
        batches[step]
        times.append(time.process_time() - start)
    return min(times)


def _seconds_streamed(batches: Batches, workers: int) -> float:
    """Seconds of a batch once all workers have started and what they made ahead is used up."""
    made = stream(batches, workers=workers)
    ahead = 4 * workers
    start = time.perf_counter()
    count = 0
    for count, _ in enumerate(made, 1):
        if count == ahead:
            start = time.perf_counter()
        if count == 3 * ahead:
            break
    made.close()
    return (time.perf_counter() - start) / max(count - ahead, 1)


def _seconds_of_a_step(settings: TrainSettings, data: ImageData) -> float:
    """Seconds of a step of the trainer on images in memory, of the fastest epoch."""
    package: Any = __import__(PACKAGES[settings.framework])
    stored = data.train_images
    assert isinstance(stored, StoredImages)
    count = BATCHES * settings.batch_size
    images = np.resize(stored[: min(count, len(stored))], (count, *stored.shape[1:]))
    small = dataclasses.replace(data, train_images=images, train_labels=None, test_labels=None,
                                test_images=images[: settings.batch_size])  # fmt: skip
    # The random crop is the workers' business where images are on disk.
    settings = dataclasses.replace(settings, cache="memory", crop_scale=1.0)
    trainer = package.MethodTrainer(settings, small)
    with tempfile.TemporaryDirectory() as folder:
        trainer.fit(RunFolder.create(Path(folder) / "run", settings), resume=False, progress=False)
    return 1.0 / max(row["images_per_second"] for row in trainer.history) * settings.batch_size


if __name__ == "__main__":
    main()
