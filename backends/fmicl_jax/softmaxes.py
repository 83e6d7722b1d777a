"""The softmax of every anchor of InfoNCE, by a log-sum-exp that tiles are added to."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fmicl_jax.ops import JAX


class Softmax(NamedTuple):
    """What makes up every anchor's softmax."""

    peak: jax.Array  # the largest score, that of the pair (x_i, y_i) excepted
    log: jax.Array  # log-sum-exp of all scores, less the peak
    margin: jax.Array  # log-sum-exp of all but the pair (x_i, y_i), less the score of that pair

    def log_share(self, place: jax.Array, scores: jax.Array, axis: int) -> jax.Array:
        """Logarithms of the softmax of one tile of anchors, with their others along `axis`."""
        peak, log = (jnp.expand_dims(part[place], axis) for part in (self.peak, self.log))
        return scores - peak - log


class LogSum(NamedTuple):
    """The running log-sum-exp of the scores of every anchor, without the pair (x_i, y_i).

    It is kept as peak + log(total): their sum would round away digits of log(total).
    """

    peak: jax.Array
    total: jax.Array  # of e^(score - peak)

    @classmethod
    def none_yet(cls, zeros: jax.Array) -> LogSum:
        """The sum before a score is added; its peak is finite."""
        return cls(zeros + 0.5 * jnp.finfo(zeros.dtype).min, zeros)

    def add(self, place: jax.Array, scores: jax.Array, axis: int) -> LogSum:
        """Add the scores of one tile of anchors with others along `axis`."""
        before = self.peak[place]
        peak = jnp.maximum(before, scores.max(axis=axis))
        part = jnp.exp(scores - jnp.expand_dims(peak, axis)).sum(axis=axis)
        total = self.total[place] * jnp.exp(before - peak) + part
        return LogSum(self.peak.at[place].set(peak), self.total.at[place].set(total))

    def merged(self, other: LogSum) -> LogSum:
        """The sum of both."""
        peak = jnp.maximum(self.peak, other.peak)
        totals = (of.total * jnp.exp(of.peak - peak) for of in (self, other))
        return LogSum(peak, sum(totals, jnp.zeros_like(peak)))

    def with_positive(self, positive: jax.Array) -> Softmax:
        """The softmaxes, given the scores of the pairs (x_i, y_i)."""
        log = self._log_total(0.0)
        margin = self.peak - positive + log
        return Softmax(self.peak, log + JAX.softplus(-margin), margin)

    def beside_positive(self, positive: jax.Array) -> Softmax:
        """The softmaxes in which the pairs (x_i, y_i) do not stand, given the scores of these."""
        margin = self.peak - positive + self._log_total(-jnp.inf)
        return Softmax(self.peak, self._log_total(jnp.inf), margin)

    def where_positive(self, present: jax.Array) -> Softmax:
        """The softmaxes of a single array, empty for anchors without a positive."""
        log = jnp.where(present, self._log_total(jnp.inf), jnp.inf)
        margin = jnp.where(present, self.peak + self._log_total(-jnp.inf), 0.0)
        return Softmax(self.peak, log, margin)

    def _log_total(self, of_nothing: float) -> jax.Array:
        """Logarithm of the total, and a number where nothing was added."""
        return jnp.where(self.total == 0, of_nothing, jnp.log(self.total))
