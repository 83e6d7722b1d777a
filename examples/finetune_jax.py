"""Fine-tune an encoder of any framework on the labels of one image in ten, in JAX with Flax.

python examples/finetune_jax.py RUN     # without RUN, PyTorch trains an encoder on digits first
"""

import jax
import numpy as np
import optax
from finetune import Few, few_labels
from flax import nnx

from fmicl_flax import build_encoder, features, load_encoder
from fmicl_flax.loading import Encoder
from fmicl_recipes.weights import open_model


@nnx.jit
def step(model: nnx.Module, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> None:
    """One step of encoder and classifier."""

    def loss_of(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    optimizer.update(model, nnx.grad(loss_of)(model))


def fine_tune(encoder: nnx.Module, few: Few, epochs: int = 30) -> float:
    """Train encoder and classifier together; their test accuracy."""
    classifier = nnx.Linear(encoder.num_features, few.classes, rngs=nnx.Rngs(few.seed))
    model = nnx.Sequential(encoder, classifier)
    sgd = optax.sgd(0.03, momentum=0.9, nesterov=True)
    optimizer = nnx.Optimizer(model, sgd, wrt=nnx.Param)
    model.train()  # batch norms use the statistics of each batch, and learn running ones
    draw, count = np.random.default_rng(few.seed), len(few.labels)
    for _ in range(epochs):  # what fills no batch is left out: it would be compiled for itself
        for rows in draw.permutation(count)[: count // 32 * 32].reshape(-1, 32):
            step(model, optimizer, few.images[rows], few.labels[rows])
    model.eval()
    found = nnx.jit(lambda model, images: model(images))(model, few.test_images).argmax(axis=1)
    return float((found == few.test_labels).mean())


def untrained(run, seed: int) -> nnx.Module:
    """The same network with random weights."""
    model = open_model(run)
    own = model.architecture
    network = build_encoder(own.name, **own.options, rngs=nnx.Rngs(seed))
    return Encoder(network, model.image_shape, own.num_features)


if __name__ == "__main__":
    few = few_labels(framework="torch")
    few.show(
        frozen=few.probe(features),
        fine_tuned=fine_tune(load_encoder(few.run), few),
        random_weights=fine_tune(untrained(few.run, few.seed), few),
    )
