"""Fine-tune an encoder of any framework on the labels of one image in ten, in Keras.

KERAS_BACKEND=jax python examples/finetune_keras.py RUN     # or tensorflow, torch; without RUN,
                                                            # PyTorch trains one on digits first
"""

import keras
from finetune import Few, few_labels

from fmicl_keras import features, load_encoder
from fmicl_keras.loading import Encoder


def fine_tune(encoder: keras.Model, few: Few, epochs: int = 30) -> float:
    """Train encoder and classifier together; their test accuracy."""
    # Said to be uint8, since Keras would make floats of images up to 255, where 1 is white.
    images = keras.Input(encoder.image_shape, dtype="uint8")
    model = keras.Sequential([images, encoder, keras.layers.Dense(few.classes)])
    model.compile(
        keras.optimizers.SGD(0.03, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(few.images, few.labels, batch_size=32, epochs=epochs, verbose=0)
    scores = model.evaluate(few.test_images, few.test_labels, verbose=0, return_dict=True)
    return scores["accuracy"]


def untrained(run) -> keras.Model:
    """The same network with random weights."""
    return Encoder(keras.models.clone_model(load_encoder(run).network))


if __name__ == "__main__":
    few = few_labels(framework="torch")
    keras.utils.set_random_seed(few.seed)
    few.show(
        frozen=few.probe(features),
        fine_tuned=fine_tune(load_encoder(few.run), few),
        random_weights=fine_tune(untrained(few.run), few),
    )
