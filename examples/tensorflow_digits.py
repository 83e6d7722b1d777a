"""Learn handwritten digits without labels in TensorFlow, with InfoNCE and then with f-MICL.

python examples/tensorflow_digits.py
"""

from functools import partial

import tensorflow as tf
from digits import PIXELS, compare, knn_accuracy, pairs_of_views

from fmicl_tensorflow import FMICLLoss, info_nce_loss


def train(criterion, epochs=100):
    """Train an encoder with the criterion; its kNN accuracy before and after."""
    tf.keras.utils.set_random_seed(0)
    dense = tf.keras.layers.Dense
    encoder = tf.keras.Sequential([tf.keras.Input([PIXELS]), dense(512, "relu"), dense(64)])
    head = tf.keras.Sequential([tf.keras.Input([64]), tf.keras.layers.ReLU(), dense(32)])
    optimizer = tf.keras.optimizers.Adam(2e-3)
    weights = encoder.trainable_variables + head.trainable_variables

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = criterion(head(encoder(x)), head(encoder(y)))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    def encode(images):
        return encoder(images).numpy()

    before = knn_accuracy(encode)
    for x, y in pairs_of_views(epochs):
        step(x, y)
    return before, knn_accuracy(encode)


if __name__ == "__main__":
    losses = {
        "InfoNCE": partial(info_nce_loss, temperature=0.5),
        "JS-MICL": FMICLLoss(divergence="js", alpha=5.0, negatives="all"),
    }
    compare(losses, train)
