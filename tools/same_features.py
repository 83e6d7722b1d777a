"""Does a trained encoder mean the same in every framework? Features and kNN of a run in each.

    python tools/same_features.py RUN
    python tools/same_features.py RUN --columns torch jax keras-tensorflow

Every column loads the run by its own `features`, in a process of its own, since Keras keeps the
backend that it is imported with. The table has the largest difference of a feature from the first
column's, relative to the largest feature, the kNN accuracy, and of how many test images kNN finds
another class.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np

from fmicl_check.columns import COLUMNS as CHECKED

COLUMNS = {column.name: column for column in CHECKED}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run on images with labels")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.run, options.columns[0], options.write)
    else:
        compare(options.run, options.columns)


def images_of(run: str) -> tuple:
    from fmicl_recipes.run import load_data
    from fmicl_recipes.run_folder import RunFolder

    settings = RunFolder(run).settings()
    return settings, load_data(settings, progress=False)


def write(run: str, column: str, path: str) -> None:
    """The features of one column, in this process."""
    _, data = images_of(run)
    features = import_module(COLUMNS[column].package).features
    np.savez(path, train=features(run, data.train_images), test=features(run, data.test_images))


def compare(run: str, columns: list[str]) -> None:
    from fmicl_recipes.evaluation import knn_classes

    settings, data = images_of(run)
    labels, test_labels = data.labels
    first = None
    print(f"{'':<18} difference  kNN accuracy  other class")
    with tempfile.TemporaryDirectory() as scratch:
        for column in columns:
            path = str(Path(scratch) / f"{column}.npz")
            environment = os.environ | {"KERAS_BACKEND": COLUMNS[column].backend}
            command = [sys.executable, __file__, run, "--columns", column, "--write", path]
            subprocess.run(command, check=True, env=environment)
            with np.load(path) as stored:
                train, test = stored["train"], stored["test"]
            found = knn_classes(train, labels, test, settings.knn_k)
            first = (test, found) if first is None else first
            apart = np.abs(test - first[0]).max() / np.abs(first[0]).max()
            accuracy, others = (found == test_labels).mean(), (found != first[1]).sum()
            print(f"{column:<18} {apart:10.1e} {accuracy:13.2%} {others:8d} of {len(test)}")


if __name__ == "__main__":
    main()
