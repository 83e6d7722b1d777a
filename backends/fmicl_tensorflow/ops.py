"""The functions of the specification in TensorFlow."""

from __future__ import annotations

import tensorflow as tf

from fmicl_core.ops import Ops


def _relu(x: tf.Tensor) -> tf.Tensor:
    return tf.where(x <= 0.0, tf.zeros_like(x), x)  # tf.nn.relu need not let NaN through


def _sum(x: tf.Tensor) -> tf.Tensor:
    # Axis by axis: adding up 2^18 float32 numbers one after the other would lose four digits. XLA
    # makes one sum of two, but not of a product with ones (as matvec it could not be in a
    # branch that `tf.vectorized_map` leaves without a row).
    return tf.reduce_sum(tf.matmul(x, tf.ones_like(x[:1]), transpose_b=True))


def _sum_log1p(x: tf.Tensor) -> tf.Tensor:
    return _sum(tf.math.log1p(x))


TENSORFLOW = Ops(
    name="tensorflow",
    exp=tf.exp,
    expm1=tf.math.expm1,
    log=tf.math.log,
    log1p=tf.math.log1p,
    softplus=tf.math.softplus,
    sigmoid=tf.math.sigmoid,
    relu=_relu,
    sum=_sum,
    sum_log1p=_sum_log1p,
)


def normalize_rows(x: tf.Tensor, length: tf.Tensor | None = None) -> tf.Tensor:
    """Rows scaled to a length, 1 if None is given; (N, D) to (N, D). A zero row stays zero.

    The largest entry is divided out first, so that no finite row overflows or underflows; as the
    result does not depend on it, no gradient flows through it.
    """
    largest = tf.stop_gradient(tf.reduce_max(tf.abs(x), axis=1, keepdims=True))
    scaled = x / tf.where(largest == 0.0, tf.ones_like(largest), largest)
    square = tf.reduce_sum(scaled * scaled, axis=1, keepdims=True)
    divisor = tf.sqrt(tf.where(square == 0.0, tf.ones_like(square), square))
    return scaled / (divisor if length is None else divisor / length)


def square_lengths(x: tf.Tensor) -> tf.Tensor:
    """|x_i|^2 of every row; (N, D) to (N,)."""
    return tf.reduce_sum(x * x, axis=1)


def off_diagonal(square: tf.Tensor) -> tf.Tensor:
    """A square matrix without its diagonal, (N, N) to (N - 1, N)."""
    n = tf.shape(square)[0]
    return tf.reshape(tf.reshape(square, [-1])[1:], [n - 1, n + 1])[:, :-1]
