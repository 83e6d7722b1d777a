"""What the fine-tuning examples share: a run of another framework, and few labels.

With 143 labels of the digits, fine-tuning is as good as a probe of the frozen encoder, and better
than training from random weights; docs/weights.md has the numbers. In PyTorch it is
docs/tutorials/jax_to_pytorch.py.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fmicl_recipes.evaluation import linear_accuracy
from fmicl_recipes.run import load_data
from fmicl_recipes.run_folder import RunFolder


@dataclass
class Few:
    """A run, one in ten of its training images with their labels, and its test images."""

    run: Path
    seed: int
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 1 + int(max(self.labels.max(), self.test_labels.max()))

    def probe(self, features: Callable) -> float:
        """Test accuracy of a linear classifier of the trained encoder's features, frozen."""
        train, test = (features(self.run, images) for images in (self.images, self.test_images))
        return linear_accuracy(train, self.labels, test, self.test_labels)

    def show(self, **accuracies: float) -> None:
        """Print test accuracies."""
        print(f"{len(self.labels)} labels, seed {self.seed}; test accuracy of {self.run}")
        for name, accuracy in accuracies.items():
            print(f"{name.replace('_', ' '):15}{accuracy:.3f}")


def few_labels(framework: str) -> Few:
    """Labelled images for the run of the command line; without one, a framework trains on digits.

    It does so by the command, in a process of its own.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("run", nargs="?", type=Path, help="folder of a run of any framework")
    parser.add_argument("--seed", type=int, default=0, help="seed of labels, weights and batches")
    options = parser.parse_args()
    run = options.run or Path(tempfile.mkdtemp()) / framework
    if not options.run:
        command = f"-m fmicl_cli train simclr --data digits --epochs 10 --framework {framework}"
        subprocess.check_output([sys.executable, *command.split(), "--out", run])
    data = load_data(RunFolder(run).settings(), progress=False)
    count = len(data.train_labels)
    rows = np.random.default_rng(options.seed).permutation(count)[: count // 10]
    return Few(
        run, options.seed, data.train_images[rows], data.train_labels[rows],
        data.test_images[:], data.test_labels,
    )  # fmt: skip
