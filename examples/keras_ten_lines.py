"""What the first lines of docs/keras.md teach an encoder, beside what it knew before.

KERAS_BACKEND=jax python examples/keras_ten_lines.py 0 1 2     # seeds; a minute each on two cores
"""

import argparse
import re
from pathlib import Path

import keras
import numpy as np

from fmicl_recipes.evaluation import evaluate_features

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keras.md"


def lines_of(page: Path) -> str:
    """The code on a page that trains a Keras model."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return next(block for block in blocks if "model.fit(" in block)


def run(code: str, seed: int) -> dict[str, dict[str, float]]:
    """Run the lines; accuracies on test images by kNN and by linear probes, of three features."""
    names: dict = {}
    keras.utils.set_random_seed(seed)
    exec(code, names)
    digits, trained = names["digits"], names["encoder"]
    images = {"train": names["train"], "test": names["test"]}
    untrained = keras.models.clone_model(trained)  # with weights drawn anew
    features = {
        "raw pixels": lambda x: x.reshape(len(x), -1),
        "untrained encoder": lambda x: untrained.predict(x, verbose=0),
        "trained without labels": lambda x: names["model"].predict(x, verbose=0),
    }
    return {
        name: evaluate_features(
            of(images["train"]), digits.train_labels, of(images["test"]), digits.test_labels, k=10
        )
        for name, of in features.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="instead of those of the lines")
    options = parser.parse_args()
    code = lines_of(PAGE)
    if options.epochs is not None:
        code = re.sub(r"epochs=\d+", f"epochs={options.epochs}", code)
    runs = [run(code, seed) for seed in options.seeds]
    backend = keras.backend.backend()
    print(f"\nKeras on {backend}; test accuracy in percent, mean and seeds {options.seeds}")
    for name, scores in runs[0].items():
        for score in scores:
            values = [100 * each[name][score] for each in runs]
            listed = ", ".join(f"{value:.1f}" for value in values)
            print(f"{name:24}{score:20}{np.mean(values):6.1f}   ({listed})")
