"""Time of the JAX and TensorFlow losses on a CPU, compiled, against their own dense form.

Beside them stand the three matrix products of "cross" alone, in the same framework: the work no
exact method can avoid. They are not tiled, so that a tiled loss, whose products stay in cache, can
come close to them or below. Everything is timed in turn in one run, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.steps import STEPS, views, worst_error
from benchmarks.timing import Row, interleaved, median_ratio, medians


def jax_products(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The three matrix products of "cross" in JAX, whole."""
    import jax

    @jax.jit
    def products(x: jax.Array, y: jax.Array) -> Any:
        z = x @ y.T
        return z @ y, z.T @ x

    left, right = jax.device_put(x), jax.device_put(y)
    return lambda: jax.block_until_ready(products(left, right))


def tensorflow_products(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The three matrix products of "cross" in TensorFlow, whole."""
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def products(x: tf.Tensor, y: tf.Tensor) -> Any:
        z = tf.matmul(x, y, transpose_b=True)
        return tf.matmul(z, y), tf.matmul(z, x, transpose_a=True)

    left, right = tf.constant(x), tf.constant(y)
    return lambda: [product.numpy() for product in products(left, right)]


PRODUCTS = {"jax": jax_products, "tensorflow": tensorflow_products}


def speed(framework: str, n: int, d: int, divergence: str, negatives: str, repeats: int) -> Row:
    """Times of the products, tiled and dense; their ratios; the error of the tiled form."""
    step = partial(STEPS[framework], n, d, negatives=negatives)
    times = interleaved(
        {
            "products": PRODUCTS[framework](*views(n, d)),
            "tiled": step(divergence=divergence, implementation="tiled"),
            "dense": step(divergence=divergence, implementation="dense"),
        },
        repeats,
    )
    row: Row = {"framework": framework, "n": n, "d": d}
    row |= {"divergence": divergence, "negatives": negatives} | medians(times)
    row["tiled_over_products"] = median_ratio(times, "tiled", "products")
    row["dense_over_tiled"] = median_ratio(times, "dense", "tiled")
    row["error"] = worst_error(framework, divergence, negatives)
    return row
