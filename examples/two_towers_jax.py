"""Train an image tower and a text tower on digits and their names with SigLIP, in JAX and Optax.

python examples/two_towers_jax.py
"""

import argparse
import math

import jax
import jax.numpy as jnp
import optax
from two_towers import PIXELS, TRIPLES, batches, report

from fmicl_jax import siglip_loss


def initial_weights(key):
    """Matrices of both towers, and scale and bias as in the paper of SigLIP."""
    he = jax.nn.initializers.he_uniform()
    shapes = {"image1": (PIXELS, 256), "image2": (256, 32), "triples": (TRIPLES, 64),
              "text": (64, 32)}  # fmt: skip
    weights = {k: he(jax.random.fold_in(key, i), s) for i, (k, s) in enumerate(shapes.items())}
    return weights | {"log_scale": jnp.array(math.log(10.0)), "logit_bias": jnp.array(-10.0)}


def images_of(weights, images):
    """Features (N, 32) of images (N, 100)."""
    return jax.nn.relu(images @ weights["image1"]) @ weights["image2"]


def texts_of(weights, captions):
    """Features (N, 32) of captions: the mean over their letter triples, and a layer."""
    some = captions != 0
    total = (weights["triples"][captions] * some[..., None]).sum(axis=1)
    return jax.nn.relu(total / some.sum(axis=1, keepdims=True)) @ weights["text"]


def loss_of(weights, images, captions, ids):
    """The loss of a batch; images and captions with equal ids belong together."""
    return siglip_loss(
        images_of(weights, images), texts_of(weights, captions), ids=ids,
        logit_scale=jnp.exp(weights["log_scale"]), logit_bias=weights["logit_bias"],
    )  # fmt: skip


def main() -> None:
    """Train, print what the towers find before and after, and what the loss learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    weights = initial_weights(jax.random.key(0))
    optimizer = optax.adam(2e-3)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state, *batch):
        updates, state = optimizer.update(jax.grad(loss_of)(weights, *batch), state)
        return optax.apply_updates(weights, updates), state

    def show(title):
        report(title, lambda v: jax.device_get(images_of(weights, v)),
               lambda v: jax.device_get(texts_of(weights, v)))  # fmt: skip

    show("before")
    for batch in batches(options.epochs):
        weights, state = step(weights, state, *batch)
    show("after")
    print(f"learned { ({k: f'{weights[k]:.2f}' for k in ('log_scale', 'logit_bias')}) }")


if __name__ == "__main__":
    main()
