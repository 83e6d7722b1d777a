"""Learn handwritten digits without labels in TensorFlow, with InfoNCE and then with f-MICL.

python examples/tensorflow_digits.py
"""

from functools import partial

import tensorflow as tf
from digits import knn_accuracy, pairs_of_views

from fmicl_tensorflow import FMICLLoss, info_nce_loss


def train(criterion, epochs=30):
    """Train an encoder with the criterion; its kNN accuracy before and after."""
    tf.keras.utils.set_random_seed(0)
    dense = tf.keras.layers.Dense
    encoder = tf.keras.Sequential([tf.keras.Input([64]), dense(256, "relu"), dense(64)])
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
        "KL-MICL": FMICLLoss(divergence="kl", negatives="all"),
        "JS-MICL": FMICLLoss(divergence="js", negatives="all"),
    }
    print(f"raw pixels: kNN {knn_accuracy(lambda images: images):.3f}")
    for name, criterion in losses.items():
        print("{}: kNN {:.3f} before, {:.3f} after".format(name, *train(criterion)))
