"""The f-MICL loss in TensorFlow: two functions and a module, all of one specification."""

from __future__ import annotations

from dataclasses import replace

import tensorflow as tf

from fmicl_core import FMICL, Divergence, Similarity
from fmicl_core.checks import check_bool, fixed_option
from fmicl_core.forms import check_implementation
from fmicl_core.objective import DEFAULTS, FIXED, SCALARS
from fmicl_tensorflow.scalars import Scalars
from fmicl_tensorflow.terms import FMICLTerms, terms_of


def fmicl_loss(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | tf.Tensor | str = DEFAULTS.alpha,
    strength: float | None = None,
    logit_scale: float | tf.Tensor | None = None,
    logit_bias: float | tf.Tensor | None = None,
    negatives: str = DEFAULTS.negatives,
    positives: str = DEFAULTS.positives,
    bank: tf.Tensor | None = None,
    ids: tf.Tensor | None = None,
    bank_ids: tf.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: bool = True,
) -> tf.Tensor:
    """f-MICL loss: - mean_i s(x_i, y_i) + alpha * mean over negative pairs of f*(s).

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `info_nce_loss` takes "all" by default, as NT-Xent does.

    s = f'(G(|x - y|^2)) is the f-Gaussian similarity, f* the convex conjugate of f.

    With `ids` rows with equal ids belong together: they are positives, and no negatives. The score
    of an anchor then is the mean over its positives. `fmicl_loss(features, ids=labels)` takes
    labels, or several views stacked in one array.

    On several replicas of a `tf.distribute` strategy it is of the union of their batches;
    `distributed=False` makes it that of this replica's rows alone. (PyTorch and JAX have to be
    told, TensorFlow's strategy says who the replicas are.)

    Args:
        x: (N, D) features of the first view, or of all rows in a single array; float16, bfloat16,
            float32 or float64. Where y or the bank have another dtype, all are promoted.
        y: (N, D) features of the second view; row i belongs to the same sample as row i of x. None:
            `ids` say which rows of x belong together.
        divergence: name or `fmicl_core.Divergence`: "kl", "js", "pearson", "squared_hellinger",
            "tsallis", "vlc", "jeffreys" (and "reverse_kl", "neyman", which collapse).
        similarity: name or `fmicl_core.Similarity`: "gaussian", "cosine", "laplace", "cauchy".
        alpha: weight of the negative term, > 0; a number, or a tensor or a variable of no
            dimension, which may change from step to step in a `tf.function`; or "auto", strength /
            mean of u over the negative pairs, where u = e^L (of a cosine f*'(s)) is the model of
            p(x, y) / (p(x) p(y)), whose mean over independent pairs is 1. It is found from every
            batch, and not differentiated.
        strength: factor > 0 of alpha="auto"; None: 5, or with a number alpha nothing.
        logit_scale: factor > 0 of x . y in z = logit_scale (x . y) + logit_bias, where z is L = log
            G of the Gaussian, or the score of the cosine; a number, or a tensor of no dimension,
            which may learn. None: that of the similarity.
        logit_bias: constant of z; a number, or a tensor of no dimension, which may learn. None:
            that of the similarity. With a scale or a bias lengths of rows do not count.
        negatives: scheme of negatives: "anchor" {(x_i, x_j), i != j}, the paper's; "within",
            "anchor" averaged with its twin on y; "cross" {(x_i, y_j), i != j}; "all" pairs of
            different samples of both views.
        positives: pairs of rows with equal `ids` that are positive: "ids", all of them; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        bank: (K, D) features that supply all negatives, {(x_i, bank_k)}, or None.
        ids: (N,) whole numbers of the rows of x, and of y; rows with equal ids belong together, as
            labels or views of one sample do. None: row i of x and of y are alone with each other.
        bank_ids: (K,) whole numbers of the bank's rows, which are no negatives of rows with the
            same id; None: no row of the bank is.
        normalize: whether rows are scaled to unit length first; a zero row stays zero and counts as
            orthogonal to every other.
        implementation: form that computes the loss: "dense" (any-order derivatives, O(N^2) memory),
            "tiled" (one pass, O(N D) memory, differentiable once), or "auto", by size.
        check_finite: whether to raise when the loss is not finite, which costs one read of a
            scalar. Skipped while tracing, where NaN shows in the loss.
        distributed: whether the replicas of a `tf.distribute` strategy around the call share the
            batch. The loss is that of the union of their batches, on every replica; exact after
            averaging the gradients, those in alpha, logit_scale and logit_bias too, over the
            replicas. A bank must be the same on every replica. "dense" gathers the union, "tiled"
            shows every replica the shards of the others, one at a time, in O(N D / W) memory.

    Returns:
        Scalar to minimise, float32 (float64 for float64 features).

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order with "dense", once with "tiled" (a second derivative is
        an error). By `tf.autodiff.ForwardAccumulator` with "dense" alone. ids are constants, and so
        is alpha="auto".

    Raises:
        ValueError: an option, a shape or a dtype does not fit, or features are not
            finite; the message names the argument.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import fmicl_loss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> round(float(fmicl_loss(x, y)), 4)  # -score + alpha * penalty = -0.6 + 40 * 0.0963
        3.2531
        >>> labels = tf.constant([0, 0, 1, 1])  # rows with equal labels are positives
        >>> round(float(fmicl_loss(x, ids=labels, divergence="js")), 2)
        -23.39

    Source: the objective of Lu et al. (2023); `fmicl_core.fmicl_reference` is it in float64 NumPy.
    """
    scalars = Scalars.checked(alpha=alpha, logit_scale=logit_scale, logit_bias=logit_bias)
    fixed = negatives, normalize, positives, strength
    settings = scalars.settings(divergence, similarity, *fixed)
    options = implementation, check_finite, distributed
    return terms_of(settings, scalars, x, y, bank, ids, bank_ids, *options).loss


def fmicl_terms(
    x: tf.Tensor,
    y: tf.Tensor | None = None,
    /,
    *,
    divergence: Divergence | str = DEFAULTS.divergence,
    similarity: Similarity | str = DEFAULTS.similarity,
    alpha: float | tf.Tensor | str = DEFAULTS.alpha,
    strength: float | None = None,
    logit_scale: float | tf.Tensor | None = None,
    logit_bias: float | tf.Tensor | None = None,
    negatives: str = DEFAULTS.negatives,
    positives: str = DEFAULTS.positives,
    bank: tf.Tensor | None = None,
    ids: tf.Tensor | None = None,
    bank_ids: tf.Tensor | None = None,
    normalize: bool = DEFAULTS.normalize,
    implementation: str = "auto",
    check_finite: bool = True,
    distributed: bool = True,
) -> FMICLTerms:
    """The loss of `fmicl_loss` with its two terms, for logging.

    loss = -score + alpha * penalty, where score = mean_i s(x_i, y_i) over the positive pairs and
    penalty = mean of f*(s) over the negative pairs. These three can be differentiated; the alpha
    that is returned is a constant.

    Arguments, errors and source as for `fmicl_loss`.

    Returns:
        Named tuple (loss, score, penalty, alpha) of scalars; alpha is the weight that was used.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order with "dense", once with "tiled" (a second derivative is
        an error). By `tf.autodiff.ForwardAccumulator` with "dense" alone. ids are constants, and so
        is alpha="auto".

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import fmicl_terms
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> terms = fmicl_terms(x, y, alpha="auto", strength=5.0)
        >>> [round(float(term), 4) for term in terms]  # loss, score, penalty, alpha
        [4.4, 0.6, 0.0963, 51.9056]
        >>> round(float(terms.alpha * terms.penalty), 4)  # of KL the penalty is the mean of u
        5.0
    """
    scalars = Scalars.checked(alpha=alpha, logit_scale=logit_scale, logit_bias=logit_bias)
    fixed = negatives, normalize, positives, strength
    settings = scalars.settings(divergence, similarity, *fixed)
    options = implementation, check_finite, distributed
    return terms_of(settings, scalars, x, y, bank, ids, bank_ids, *options)


class FMICLLoss(tf.Module):
    """`fmicl_loss` as a module: the same options, and no variables but those that it is given.

    Negatives are by default the other samples of x, `negatives="anchor"`: the paper's printed
    equation, and the cheapest. `InfoNCELoss` takes "all" by default, as NT-Xent does.

    What it was made with does not change, since a `tf.function` that has been traced would not
    learn of it. For an alpha, a logit_scale or a logit_bias that changes or learns give a
    `tf.Variable`; `assign` gives it another value.

    Args:
        divergence: as for `fmicl_loss`.
        similarity: as for `fmicl_loss`.
        alpha: as for `fmicl_loss`.
        strength: as for `fmicl_loss`.
        logit_scale: as for `fmicl_loss`.
        logit_bias: as for `fmicl_loss`.
        negatives: as for `fmicl_loss`.
        positives: as for `fmicl_loss`.
        normalize: as for `fmicl_loss`.
        implementation: as for `fmicl_loss`.
        check_finite: as for `fmicl_loss`.
        distributed: as for `fmicl_loss`.

    Dtypes:
        Features may be float16, bfloat16, float32, float64, or a mix. Sums and the loss are
        float32, or float64 if any feature is. A gradient has the dtype of its argument.

    Derivatives:
        By `tf.GradientTape`: of any order with "dense", once with "tiled" (a second derivative is
        an error). By `tf.autodiff.ForwardAccumulator` with "dense" alone. ids are constants, and so
        is alpha="auto".

    Raises:
        ValueError: an option is unknown or out of range.

    Examples:
        >>> import tensorflow as tf
        >>> from fmicl_tensorflow import FMICLLoss
        >>> x = tf.constant([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        >>> y = tf.constant([[0.8, 0.6], [-0.6, 0.8], [-0.8, -0.6], [0.6, -0.8]])
        >>> loss = FMICLLoss(divergence="js", negatives="all")
        >>> round(float(loss(x, y)), 3)
        -22.773
        >>> bank = tf.constant([[0.6, 0.8], [-0.8, 0.6]])  # supplies all negatives
        >>> round(float(loss(x, y, bank)), 3)
        -17.996
    """

    def __init__(
        self,
        *,
        divergence: Divergence | str = DEFAULTS.divergence,
        similarity: Similarity | str = DEFAULTS.similarity,
        alpha: float | tf.Tensor | str = DEFAULTS.alpha,
        strength: float | None = None,
        logit_scale: float | tf.Tensor | None = None,
        logit_bias: float | tf.Tensor | None = None,
        negatives: str = DEFAULTS.negatives,
        positives: str = DEFAULTS.positives,
        normalize: bool = DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        distributed: bool = True,
    ) -> None:
        super().__init__()
        scalars = Scalars.checked(alpha=alpha, logit_scale=logit_scale, logit_bias=logit_bias)
        # One by one: TensorFlow would wrap a tuple.
        self._alpha, self._logit_scale, self._logit_bias = scalars
        options = divergence, similarity, negatives, normalize, positives, strength
        self._made_with = scalars.settings(*options)
        self.implementation = check_implementation(implementation)
        self.check_finite = check_bool("check_finite", check_finite)
        self.distributed = check_bool("distributed", distributed)

    def __call__(
        self,
        x: tf.Tensor,
        y: tf.Tensor | None = None,
        bank: tf.Tensor | None = None,
        *,
        ids: tf.Tensor | None = None,
        bank_ids: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The loss of x (N, D) and, if given, y (N, D), bank (K, D), ids (N,), bank_ids (K,)."""
        return self.terms(x, y, bank, ids=ids, bank_ids=bank_ids).loss

    def terms(
        self,
        x: tf.Tensor,
        y: tf.Tensor | None = None,
        bank: tf.Tensor | None = None,
        *,
        ids: tf.Tensor | None = None,
        bank_ids: tf.Tensor | None = None,
    ) -> FMICLTerms:
        """The loss, mean score, mean penalty and alpha, as `fmicl_terms`."""
        options = self.implementation, self.check_finite, self.distributed
        return terms_of(self._made_with, self._scalars, x, y, bank, ids, bank_ids, *options)

    @property
    def alpha(self) -> float | tf.Tensor | str:
        """Weight of the negative term, as it was given."""
        return self._alpha

    @property
    def strength(self) -> float | None:
        """Factor of alpha="auto"; None with a number alpha."""
        return self._made_with.strength

    @property
    def logit_scale(self) -> float | tf.Tensor | None:
        """Factor of x . y in z, as it was given."""
        return self._logit_scale

    @property
    def logit_bias(self) -> float | tf.Tensor | None:
        """Constant of z, as it was given."""
        return self._logit_bias

    @property
    def _scalars(self) -> Scalars:
        return Scalars(self._alpha, self._logit_scale, self._logit_bias)

    @property
    def objective(self) -> FMICL:
        """The settings, with alpha, logit_scale and logit_bias as they are now."""
        return replace(self._made_with, **self._scalars.values())

    def __setattr__(self, name: str, value: object) -> None:
        if name in (*FIXED, *SCALARS, "strength"):
            raise fixed_option(name, value)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        """The options, as they would be pasted."""
        more = {"implementation": self.implementation, "check_finite": self.check_finite}
        more |= {} if self.distributed else {"distributed": False}
        return f"FMICLLoss({self.objective.listed(**more)})"
