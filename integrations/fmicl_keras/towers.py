"""SigLIP and CLIP as Keras layers that own their scale and bias, for models of two towers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from fmicl_core.checks import check_bool, check_choice, check_features, check_scalar, invalid
from fmicl_core.family import FAMILY_DEFAULTS, check_clip_scale
from fmicl_core.forms import IMPLEMENTATIONS, WITH_FUSED, check_implementation
from fmicl_core.pairs import POSITIVES
from fmicl_keras.backend import Tensor, float32_at_least, library
from fmicl_keras.predictions import unmasked
from fmicl_keras.replicas import signed, signed_here
from fmicl_keras.shares import shared_out
from fmicl_keras.small_batches import or_zero
from fmicl_keras.targets import check_targets, ids_of


class AtMost(keras.constraints.Constraint):
    """Holds a weight at a limit, or below, after every step.

    Args:
        limit: largest value.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, w: Tensor) -> Tensor:
        """The weight, or the limit where it is above."""
        return keras.ops.minimum(w, self.limit)


class TowersLoss(keras.layers.Layer):
    """The base of losses of two towers: adds its loss to the model, and returns the features.

    A subclass gives the loss of a batch, and its own options.

    Args:
        options: options of the subclass, as they would be passed; `get_config` has them.
        dtype: dtype of the arithmetic and of the weights.
        kwargs: options of `keras.layers.Layer`.
    """

    #: What `implementation` may be.
    forms: tuple[str, ...] = IMPLEMENTATIONS

    def __init__(self, options: dict[str, Any], dtype: Any, **kwargs: Any) -> None:
        super().__init__(dtype=float32_at_least(dtype), autocast=False, **kwargs)
        scalars = [name for name in ("logit_scale", "logit_bias") if name in options]
        checked = {name: check_scalar(name, options[name], None) for name in scalars}
        check_choice("positives", options["positives"], POSITIVES)
        check_bool("normalize", options["normalize"])
        check_implementation(options["implementation"], self.forms)
        self.options = options | checked
        #: The logarithm of the scale, a weight.
        self.log_scale = self.scalar("log_scale", math.log(checked["logit_scale"]))

    def scalar(self, name: str, value: float) -> keras.Variable:
        """A new weight of no dimension."""
        initializer = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), initializer=initializer)

    @property
    def logit_scale(self) -> Tensor:
        """The scale that is learned, e^log_scale; scalar."""
        return keras.ops.exp(self.log_scale)

    def scalars(self) -> dict[str, Tensor]:
        """What is learned, by the names of the library's arguments."""
        return {"logit_scale": self.logit_scale}

    def learned(self) -> dict[str, float]:
        """What is learned, as numbers, such as for the logs of an epoch."""
        return {k: float(keras.ops.convert_to_numpy(v)) for k, v in self.scalars().items()}

    def of_batch(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        """The loss of the rows x and y (N, D) of this replica and of all others; scalar."""
        raise NotImplementedError

    def shared_out(
        self, loss: Callable[..., Tensor], x: Tensor, y: Tensor, options: dict[str, Any]
    ) -> Tensor:
        """A loss of the backend's library with these options, `ids` among them."""
        names = self.scalars()
        learned = {name: options[name] for name in names}
        fixed = {k: v for k, v in options.items() if k not in names and k != "ids"}
        shares = {"x": x, "y": y, "ids": options["ids"]}
        return shared_out(partial(loss, **fixed), shares, **learned)

    def call(self, x: Tensor, y: Tensor = None, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add the loss of a batch to those of the model, and return the features as they are.

        Args:
            x: (batch, dim) features of one tower, such as images.
            y: (batch, dim) features of the other tower, such as their captions.
            ids: whole numbers, (batch,) or (batch, 1); rows with equal ids belong together. None:
                row i of x and row i of y are alone with each other.

        Raises:
            ValueError: a shape or dtype does not fit, or features have a Keras mask of samples.

        Warns:
            UserWarning: the batch has no negative pair; its loss is 0.
        """
        check_towers(x, y)
        numbers = None if ids is None else ids_of(ids, x.shape[0], "ids")
        views = keras.ops.stack(
            [keras.ops.cast(unmasked(v, name, 1), self.dtype) for v, name in ((x, "x"), (y, "y"))],
            axis=1,
        )
        scalars = self.scalars()
        options = {k: v for k, v in self.options.items() if k not in scalars} | scalars

        def of_batch(views: Tensor, ids: Tensor | None) -> Tensor:
            return self.of_batch(views[:, 0], views[:, 1], ids=ids, **options)

        loss = or_zero(of_batch, views, numbers, is_share=True)
        # So that the scalars have a gradient, 0, where a batch without negatives does not use them.
        self.add_loss(signed(loss + 0.0 * sum(scalars.values())))
        return x, y

    def _get_own_losses(self) -> list[Tensor]:
        # Replicas are threads that add to one list, and Keras would report the sum of all of them.
        return signed_here(super()._get_own_losses())

    def compute_output_spec(self, x: Any, y: Any = None, ids: Any = None) -> tuple[Any, Any]:
        """The features, of the same shapes and dtypes."""
        check_towers(x, y)
        if ids is not None:
            check_targets("ids", ids.shape, keras.backend.standardize_dtype(ids.dtype), x.shape[0])
        return keras.KerasTensor(x.shape, x.dtype), keras.KerasTensor(y.shape, y.dtype)

    def get_config(self) -> dict[str, Any]:
        """Everything that makes a layer like this one by `from_config`, as it was at first."""
        return super().get_config() | dict(self.options)


def check_towers(x: Any, y: Any) -> None:
    """Check the shapes and dtypes of the features of two towers.

    Raises:
        ValueError: one of them does not fit.
    """
    if y is None:
        why = "Call the layer as loss(images, captions), or loss(images, captions, ids=ids)."
        expected = "the features of the other tower, (batch, dim)"
        raise invalid("y", expected, None, why=why)
    dtypes = [keras.backend.standardize_dtype(v.dtype) for v in (x, y)]
    framework = keras.config.backend()
    check_features(x.shape, y.shape, None, dtypes, least=1, framework=framework, has_ids=True)


@keras.saving.register_keras_serializable("fmicl")
class SigLIPLoss(TowersLoss):
    """SigLIP of two towers, as a layer that learns its scale and bias.

    The loss is -(1/N) (sum over i of log sigmoid(L_ii) + over i != j of log sigmoid(-L_ij)) with
    L_ij = logit_scale (x_i . y_j) + logit_bias. The layer adds it to the losses of the model, which
    needs no `loss` in `compile`, and returns the features of both towers as they are:

        images, captions = keras.Input((64, 64, 3)), keras.Input((32,), dtype="int32")
        features = SigLIPLoss()(image_tower(images), text_tower(captions))
        model = keras.Model([images, captions], features)
        model.compile("adam")

    With `ids` every pair (x_i, y_j) of rows with equal ids is positive. In a strategy with replicas
    the loss is that of the union of their batches. Weights of samples do not reach a layer: `fit`
    leaves a `sample_weight` out where there is no `loss` in `compile`.

    Args:
        logit_scale: factor > 0 of x . y to begin with; the weight `log_scale` is its logarithm.
        logit_bias: constant of L to begin with; a weight of that name.
        positives: pairs of rows with equal ids that are positive: "ids", every one; "pair",
            (x_i, y_i) alone, so that other rows with that id are merely no negatives (duplicates).
        normalize: as for the backend's `siglip_loss`.
        implementation: as for the backend's `siglip_loss`.
        check_finite: as for the backend's `siglip_loss`.
        name: name of the layer.
        dtype: dtype of the arithmetic and of the weights, "float32" or "float64", or None for
            `keras.config.floatx()`; half precision is computed in float32.
        kwargs: options of `keras.layers.Layer`.

    Raises:
        ValueError: an option is unknown or out of range.

    Source: Zhai et al. (2023), algorithm 1.
    """

    forms = WITH_FUSED

    def __init__(
        self,
        *,
        logit_scale: float = FAMILY_DEFAULTS.siglip_scale,
        logit_bias: float = FAMILY_DEFAULTS.siglip_bias,
        positives: str = FAMILY_DEFAULTS.positives,
        normalize: bool = FAMILY_DEFAULTS.normalize,
        implementation: str = "auto",
        check_finite: bool = True,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "logit_scale": logit_scale, "logit_bias": logit_bias, "positives": positives,
            "normalize": normalize, "implementation": implementation,
            "check_finite": check_bool("check_finite", check_finite),
        }  # fmt: skip
        super().__init__(options, dtype, name=name, **kwargs)
        #: The constant of L, a weight.
        self.logit_bias = self.scalar("logit_bias", self.options["logit_bias"])

    def scalars(self) -> dict[str, Tensor]:
        """What is learned, by the names of the library's arguments."""
        return super().scalars() | {"logit_bias": self.logit_bias.value}

    def of_batch(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        """The loss by the backend's library, of all replicas; scalar."""
        return self.shared_out(library().siglip_loss, x, y, options)


@keras.saving.register_keras_serializable("fmicl")
class CLIPLoss(TowersLoss):
    """CLIP of two towers, as a layer that learns its scale.

    The loss is the mean over i of log(sum over j of e^s_ij) - s_ii, averaged with that of the
    columns, with s_ij = logit_scale (x_i . y_j). A scale of more than 100 is set back to 100 after
    every step, as in the paper. The conventions are those of `SigLIPLoss`.

    Args:
        logit_scale: factor of x . y to begin with, > 0 and <= 100; the weight `log_scale` is its
            logarithm.
        positives: as for `SigLIPLoss`.
        normalize: as for the backend's `clip_loss`.
        implementation: as for the backend's `clip_loss`.
        name: as for `SigLIPLoss`.
        dtype: as for `SigLIPLoss`.
        kwargs: as for `SigLIPLoss`.

    Raises:
        ValueError: an option is unknown or out of range.

    Source: Radford et al. (2021), figure 3 and section 2.5.
    """

    def __init__(
        self,
        *,
        logit_scale: float = FAMILY_DEFAULTS.clip_scale,
        positives: str = FAMILY_DEFAULTS.positives,
        normalize: bool = FAMILY_DEFAULTS.normalize,
        implementation: str = "auto",
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "logit_scale": check_clip_scale(logit_scale), "positives": positives,
            "normalize": normalize, "implementation": implementation,
        }  # fmt: skip
        super().__init__(options, dtype, name=name, **kwargs)
        self.log_scale.constraint = AtMost(math.log(FAMILY_DEFAULTS.clip_scale_limit))

    def of_batch(self, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        """The loss by the backend's library, of all replicas; scalar."""
        return self.shared_out(library().clip_loss, x, y, options)
