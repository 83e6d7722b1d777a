"""What a case is: a loss to be checked, timed, or timed with other tiles; knows of no framework."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fmicl_core import FMICL, Gaussian, Laplace, Similarity
from fmicl_core.family import FAMILY_DEFAULTS
from fmicl_core.related import RELATED_DEFAULTS

#: Forms of each library. "fused_value" is the fused routine without a gradient.
FORMS = {
    "torch": ("fused", "fused_deterministic", "fused_value", "tiled", "dense"),
    "jax": ("fused", "fused_value", "tiled", "dense"),
}
#: Largest relative error of the loss and of the gradients that passes.
LIMIT = {"float32": 5e-5, "tf32": 5e-3, "float16": 5e-3, "bfloat16": 2e-2}
#: Losses by name; every other one is f-MICL with the divergence of that name.
NAMED = ("siglip", "clip", "info_nce")
#: logit_scale, and logit_bias where the loss has one: of losses by name, and of learned f-MICL.
SCALARS = {
    "siglip": (FAMILY_DEFAULTS.siglip_scale, FAMILY_DEFAULTS.siglip_bias),
    "clip": (FAMILY_DEFAULTS.clip_scale,),
    "info_nce": (1.0 / RELATED_DEFAULTS.temperature,),
}
LEARNED = (5.0, -3.0)
#: Flops that no exact method can avoid, in N K D; a symmetric block needs half of a full one, and
#: a bank has no gradient.
FLOPS = {"cross": 6, "anchor": 3, "all": 12, "bank": 4}
#: Rows with equal ids, and number of classes.
EQUAL, CLASSES = 8, 10
#: Rows of a chunk of the baseline that tiles as Inf-CL does.
CHUNK = 2048


class Check(NamedTuple):
    """One loss with its gradients to be compared with the float64 reference.

    Args:
        form: name in `FORMS`.
        loss: name of a divergence, or name in `NAMED`.
        similarity: name of the similarity, "-" for losses by name.
        negatives: name of the scheme of negatives.
        bank: whether a bank supplies the negatives.
        dtype: dtype of the features; "tf32" is float32 with products in tf32.
        n: number of rows.
        d: width of the features.
        normalize: whether rows are scaled to unit length first.
        pairs: positive pairs: "rows", row i of x and of y; "ids", N / 8 ids of 8 rows each;
            "classes", 10 ids.
        scalars: "fixed", or "learned" where the scale (and the bias) have gradients.
    """

    form: str
    loss: str
    similarity: str
    negatives: str
    bank: bool
    dtype: str
    n: int
    d: int
    normalize: bool = True
    pairs: str = "rows"
    scalars: str = "fixed"

    @property
    def bank_rows(self) -> int:
        """Rows of the bank, or 0 without one."""
        return self.n + self.n // 3 if self.bank else 0

    @property
    def critic(self) -> Similarity | str:
        """The similarity; a kernel of rows that are not of unit length has their scale."""
        scaled = {"gaussian": Gaussian(self.d / 2.0), "laplace": Laplace(math.sqrt(self.d))}
        return self.similarity if self.normalize else scaled[self.similarity]

    def objective(self) -> FMICL:
        """The settings of f-MICL."""
        how = {"negatives": self.negatives, "normalize": self.normalize} | scalars_of(self)
        return FMICL(self.loss, self.critic, **how)  # type: ignore[arg-type]


class Speed(NamedTuple):
    """One loss to be timed at one size; fields as of `Check`.

    Args:
        loss: name of the loss, or "any" of what is the same for all.
        form: name in `FORMS`; "products", the matrix products alone, whole or in tiles; or plain
            code as users write it: "eager_dense", "compiled_dense" and "compiled_chunks".
        bank: rows of a bank that supplies the negatives and has no gradient, or 0.
    """

    loss: str
    form: str
    n: int
    d: int
    dtype: str
    negatives: str
    bank: int = 0
    pairs: str = "rows"
    scalars: str = "fixed"

    #: Speeds are of unit rows, with the default similarity.
    normalize = True
    critic = "gaussian"

    @property
    def bank_rows(self) -> int:
        """Rows of the bank, or 0 without one."""
        return self.bank

    @property
    def flops(self) -> float:
        """Those that no exact method can avoid."""
        share = FLOPS["bank" if self.bank else self.negatives]
        return float(share) * self.n * (self.bank or self.n) * self.d

    @property
    def repeats(self) -> int:
        """How often it is timed."""
        return 10 if self.n < 32768 else 3 if self.n < 1 << 20 else 1


class Tune(NamedTuple):
    """Jensen-Shannon f-MICL by the fused routine, to be timed with the given tiles.

    Args:
        rows, columns, width, warps, stages: as of `fmicl_core.fused.Tiles`; 0, all of them, for the
            tiles that the library takes.
        registers: as there; 0 for any number.
    """

    form: str
    n: int
    d: int
    dtype: str
    negatives: str
    rows: int = 0
    columns: int = 0
    width: int = 0
    warps: int = 0
    stages: int = 0
    registers: int = 0

    @property
    def speed(self) -> Speed:
        """The same, whatever the tiles."""
        return Speed("js", *self[:5])

    @property
    def tiles(self) -> dict[str, int | None]:
        """The tiles by the names of their fields, or nothing for the present ones."""
        given = dict(zip(self._fields[5:], self[5:], strict=True))
        return given | {"registers": self.registers or None} if self.rows else {}

    @property
    def flops(self) -> float:
        """Those that no exact method can avoid."""
        return self.speed.flops

    @property
    def repeats(self) -> int:
        """How often it is timed."""
        return 5

    def taken(self, tiles: Iterable[tuple[int, ...]]) -> str:
        """Those of the tiles that the last routine took, "-" for none.

        Raises:
            RuntimeError: no routine took any, so that others would change nothing.
        """
        *_, last = ("-",), *tiles
        if self.rows and last == ("-",):
            raise RuntimeError("the library takes no tiles for this shape")
        return " ".join(str(number) for number in last if number)  # registers may be None


Case = Check | Speed | Tune


class Result(NamedTuple):
    """Features as the loss saw them (x, perhaps y and a bank), and what it made of them; float64.

    There are no gradients where only the value was asked for.
    """

    features: tuple[np.ndarray, ...]
    loss: float
    gradients: tuple[np.ndarray, ...]
    slopes: tuple[float, ...] = ()  # derivatives in the scalars that learn


class Task(NamedTuple):
    """A case, its library, and the stage to which it belongs; the first tells most."""

    stage: int
    library: str
    case: Case

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from every other, as text, as it stands in a CSV file."""
        return self.library, type(self.case).__name__, *map(str, self.case)


def scalars_of(case: Check | Speed) -> dict[str, float]:
    """The scalars that a loss is given, by the names of its arguments."""
    values = SCALARS.get(case.loss, LEARNED if case.scalars == "learned" else ())
    return dict(zip(("logit_scale", "logit_bias"), values, strict=False))


def is_single(case: Check | Speed) -> bool:
    """Whether all rows are in one array, as labelled rows are, and there is no y."""
    return case.pairs != "rows" and case.negatives == "anchor" and not case.bank


def ids_of(case: Check | Speed) -> dict[str, np.ndarray]:
    """Ids in no order, by the names of the arguments; none where row i belongs to row i."""
    if case.pairs == "rows":
        return {}
    random = np.random.default_rng(0)
    count = CLASSES if case.pairs == "classes" else -(-case.n // EQUAL)
    own = random.permutation(case.n) // EQUAL if case.pairs == "ids" else None
    ids = {"ids": random.integers(0, count, case.n) if own is None else own}
    if case.bank:
        ids["bank_ids"] = random.integers(0, count, case.bank_rows)
    return {name: value.astype(np.int32) for name, value in ids.items()}


def call_of(case: Check | Speed) -> tuple[str, dict[str, Any]]:
    """Name of the function of a backend that computes the loss, and its options."""
    options: dict[str, Any] = {"implementation": case.form.split("_")[0]}
    options["normalize"] = case.normalize
    if case.loss in ("siglip", "clip"):
        return f"{case.loss}_loss", options
    options["negatives"] = case.negatives
    if case.loss == "info_nce":
        return "info_nce_loss", options
    return "fmicl_loss", options | {"divergence": case.loss, "similarity": case.critic}


def tile_rows(n: int) -> int:
    """Rows of a tile of the products alone: a part of n, at most half a GiB in 16 bits."""
    return max(1, math.gcd(n, min(CHUNK, (1 << 28) // n), n // 2))
