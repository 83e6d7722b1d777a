"""Train an image tower and a text tower on digits and their names with SigLIP, in Keras.

KERAS_BACKEND=jax python examples/two_towers_keras.py      # or tensorflow, torch
"""

import argparse

import keras
from keras import layers
from two_towers import BATCH, LENGTH, PIXELS, TRAIN, TRIPLES, batches, report

from fmicl_keras import SigLIPLoss


def main() -> None:
    """Train, print what the towers find before and after, and what the loss learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    image_tower = keras.Sequential([layers.Dense(256, "relu"), layers.Dense(32)])
    text_tower = keras.Sequential([
        layers.Embedding(TRIPLES, 64, mask_zero=True),
        layers.GlobalAveragePooling1D(),  # over the letter triples that are there
        layers.ReLU(),
        layers.Dense(32),
    ])  # fmt: skip
    images, ids = keras.Input((PIXELS,)), keras.Input((), dtype="int32")
    captions = keras.Input((LENGTH,), dtype="int32")

    criterion = SigLIPLoss()  # adds its loss to the model: images and captions with equal ids
    features = criterion(image_tower(images), text_tower(captions), ids=ids)
    model = keras.Model([images, captions, ids], features)
    model.compile(keras.optimizers.Adam(2e-3))

    def show(title: str) -> None:
        report(title, image_tower.predict_on_batch, text_tower.predict_on_batch)

    show("before")
    model.fit(
        ((batch,) for batch in batches(options.epochs)),
        epochs=options.epochs, steps_per_epoch=len(TRAIN) // BATCH,
        shuffle=False, verbose=0,
    )  # fmt: skip
    show("after")
    learned = {v.name: f"{float(keras.ops.convert_to_numpy(v)):.2f}" for v in criterion.weights}
    print(f"{type(criterion).__name__} learned {learned}")


if __name__ == "__main__":
    main()
