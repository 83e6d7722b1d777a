"""Learn handwritten digits without labels in JAX and Optax, with InfoNCE and then with f-MICL.

python examples/jax_digits.py
"""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax
from digits import PIXELS, compare, knn_accuracy, pairs_of_views

from fmicl_jax import FMICLLoss, info_nce_loss

WIDTHS = {"encoder": (PIXELS, 512, 64), "head": (64, 32)}


def initial_weights(key):
    """Kernels and biases of the encoder and of the head."""
    he = jax.nn.initializers.he_uniform()
    return {
        name: [
            (he(jax.random.fold_in(key, i), (fan_in, fan_out)), jnp.zeros(fan_out))
            for i, (fan_in, fan_out) in enumerate(pairwise(widths))
        ]
        for name, widths in WIDTHS.items()
    }


def layers(weights, x):
    """Linear layers with a rectifier between them."""
    for i, (kernel, bias) in enumerate(weights):
        x = (jax.nn.relu(x) if i else x) @ kernel + bias
    return x


def train(criterion, epochs=100):
    """Train an encoder with the criterion; its kNN accuracy before and after."""
    weights = initial_weights(jax.random.key(0))
    optimizer = optax.adam(2e-3)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state, x, y):
        def loss_of(weights):
            features = (layers(weights["encoder"], v) for v in (x, y))
            return criterion(*(layers(weights["head"], jax.nn.relu(h)) for h in features))

        updates, state = optimizer.update(jax.grad(loss_of)(weights), state)
        return optax.apply_updates(weights, updates), state

    before = knn_accuracy(lambda images: layers(weights["encoder"], images))
    for x, y in pairs_of_views(epochs):
        weights, state = step(weights, state, x, y)
    return before, knn_accuracy(lambda images: layers(weights["encoder"], images))


if __name__ == "__main__":
    losses = {
        "InfoNCE": partial(info_nce_loss, temperature=0.5),
        "JS-MICL": FMICLLoss(divergence="js", alpha=5.0, negatives="all"),
    }
    compare(losses, train)
