"""Case: one call of a loss, from which everything about it follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fmicl_check.base import Array
from fmicl_check.truth import LEARNED, RELATED
from fmicl_core import DIVERGENCES, FMICL, Cauchy, Cosine, Divergence, Gaussian, Laplace, Similarity
from fmicl_core.forms import FUSED
from fmicl_core.objective import AUTO, DEFAULTS
from fmicl_core.pairs import NEGATIVES, POSITIVES

SEED = 0
#: Rows of x and y, rows of the bank, width. One shape for all, since JAX compiles each function for
#: each shape; small, since central differences differentiate the losses by name. Two tiles of 3
#: rows leave a remainder of 1. `LARGE` has another number of rows in the bank.
SHAPE = (7, 7, 4)
TILE = 3
#: More pairs than `implementation="auto"` computes at once: tiles of the size users get.
LARGE = (600, 530, 8)

DTYPES = ("float64", "float32", "bfloat16")
SUITABLE = tuple(name for name, make in DIVERGENCES.items() if make().suitable)
#: What supplies the negatives: a scheme, or a bank.
SCHEMES = (*NEGATIVES, "bank")
#: Similarities, and whether rows are normalised; as many as `SCHEMES`, see `_pairs`.
SIMILARITIES: dict[str, tuple[Similarity, bool]] = {
    "gaussian": (Gaussian(), True),
    "gaussian, any norm": (Gaussian(4.0), False),
    "cosine": (Cosine(1.6), True),
    "laplace": (Laplace(), True),
    "cauchy, any norm": (Cauchy(2.0), False),
}

#: What ids say, and for each whether there is a second view, the positives, and how many different
#: ids there are for a row, on average.
IDS: dict[str, tuple[bool, str, float]] = {
    "labels": (False, "ids", 0.2),
    "labels of two views": (True, "ids", 0.2),
    "duplicates": (True, "pair", 0.8),
}

#: Largest relative error of loss and gradient that passes. Losses are computed in float32 at least
#: and judged at the features as the dtype holds them; gradients leave in the dtype, so that
#: bfloat16 rounds each entry by up to 2^-8.
TOLERANCE = {"float64": (1e-12, 1e-11), "float32": (4e-6, 2e-5), "bfloat16": (4e-6, 4e-3)}
#: The same for fused routines of GPUs, which round rows and weights to bfloat16 for products.
FUSED_TOLERANCE = {"float32": TOLERANCE["float32"], "bfloat16": (8e-3, 1.6e-2)}


@dataclass(frozen=True)
class Case:
    """One call of a loss, from which everything about it follows.

    Args:
        loss: name of a divergence, or of a related loss, such as "info_nce_loss"; or a
            `Divergence`, such as one of your own.
        similarity: name in `SIMILARITIES`; it means nothing to a related loss.
        negatives: name of a scheme, or "bank".
        implementation: form of the loss: "dense", "tiled" (in tiles so small that it takes many),
            "fused", or "auto" (on a large batch). Of the related losses those in `truth.TILED` have
            forms.
        dtype: dtype of the features.
        compiled: whether the loss is compiled, by torch.compile, jax.jit or tf.function with XLA.
        ids: what ids say, a name in `IDS`, or "" without ids.
        learned: whether it has scalars that learn: logit_scale, and logit_bias where there is one.
        auto: whether alpha is found from the batch.
    """

    loss: str | Divergence
    similarity: str = "gaussian"
    negatives: str = "anchor"
    implementation: str = "dense"
    dtype: str = "float64"
    compiled: bool = False
    ids: str = ""
    learned: bool = False
    auto: bool = False

    @property
    def is_related(self) -> bool:
        """Whether the loss is one of those that f-MICL generalises."""
        return self.loss in RELATED

    @property
    def label(self) -> str:
        """The dtype, with "fused" behind it for a fused routine; cases of a label are one row."""
        return f"{self.dtype} {FUSED}" if self.implementation == FUSED else self.dtype

    @property
    def name(self) -> str:
        """The case in a few words, to say what is being computed."""
        how = f"{self.implementation} {self.dtype}" + ", compiled" * self.compiled
        how = f"{self.ids}, {how}" if self.ids else how
        how = f"learned scale, {how}" if self.learned else how
        how = f"alpha auto, {how}" if self.auto else how
        if self.is_related:
            return f"{self.loss}, {how}"
        return f"{self.loss}, {self.similarity}, {self.negatives}, {how}"

    @property
    def tolerance(self) -> tuple[float, float]:
        """Largest relative errors of loss and gradient that pass."""
        return (FUSED_TOLERANCE if self.implementation == FUSED else TOLERANCE)[self.dtype]

    @property
    def objective(self) -> FMICL:
        """The settings of an f-MICL loss."""
        similarity, normalize = SIMILARITIES[self.similarity]
        scheme = "anchor" if self.negatives == "bank" else self.negatives
        alpha = AUTO if self.auto else DEFAULTS.alpha
        return FMICL(
            self.loss, similarity, alpha, scheme, normalize, self.positives, **self.scalars(),
        )  # fmt: skip

    @property
    def positives(self) -> str:
        """Which rows with equal ids are positives."""
        return IDS[self.ids][1] if self.ids else POSITIVES[0]

    def features(self) -> dict[str, Array]:
        """x, perhaps y, and for negatives from a bank the bank; float64, alike everywhere."""
        n, k, d = self.shape
        rng = np.random.default_rng(SEED)
        x = rng.normal(size=(n, d))
        arrays = {"x": x, "y": x + 0.5 * rng.normal(size=(n, d))}
        if self.ids and not IDS[self.ids][0]:
            del arrays["y"]
        return arrays | ({"bank": rng.normal(size=(k, d))} if self.negatives == "bank" else {})

    def scalars(self) -> dict[str, float]:
        """The scalars that learn, if the case has any."""
        return LEARNED.get(str(self.loss), LEARNED["siglip_loss"]) if self.learned else {}

    def numbers(self) -> dict[str, Array]:
        """The ids of the rows, and of the bank's, if the case has any."""
        if not self.ids:
            return {}
        n, k, _ = self.shape
        rng, several = np.random.default_rng(SEED + 1), max(2, int(IDS[self.ids][2] * n))
        bank = {}
        if self.negatives == "bank":
            bank = {"bank_ids": rng.integers(0, several, k).astype(np.int32)}
        return {"ids": rng.integers(0, several, n).astype(np.int32), **bank}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows of x, rows of a bank, width."""
        return LARGE if self.implementation == "auto" else SHAPE
