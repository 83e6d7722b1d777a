"""The functions that JAX compiles: a step of training; features and projections for evaluation.

Method and optimiser travel as a static graph and a state, so that a step can reuse the memory of
the state it replaces. With several devices the batch is spread over them and everything else is on
each: XLA then computes what one device would. The loss of the whole batch is shared out among them,
where it can be (`fmicl_flax.devices.over_devices`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from fmicl_flax.devices import everywhere
from fmicl_flax.method import Contrast, Method
from fmicl_recipes.chunks import filled_chunks, joined
from fmicl_recipes.data import AnyImages
from fmicl_recipes.sphere import Features


@partial(jax.jit, static_argnames=("graph", "mesh"), donate_argnames=("state",))
def train_step(
    graph: nnx.GraphDef[Any],
    mesh: Mesh,
    state: nnx.State,
    samples: dict[str, jax.Array],
    rows: jax.Array | None,
    plan: dict[str, Any],
    key: jax.Array,
) -> tuple[nnx.State, Contrast]:
    """One step of training.

    Args:
        graph: static graph of (method, optimiser).
        mesh: devices to train on.
        state: state of (method, optimiser), whose memory is reused.
        samples: uint8 `images` of the batch, as `Method.views` takes them, and their `ids` (N,) if
            the method is supervised; with `rows` those of the whole data set.
        rows: indices (N,) of the batch in the data set; None where the samples are the batch.
        plan: arguments that `Method.plan` returned for this step.
        key: random key of the run. The step's own follows from it and the number of the step, so
            that a run that was stopped can go on exactly as if it had not been.

    Returns:
        The new state, and the result of `Method.contrast`.
    """
    method, optimizer = nnx.merge(graph, state)
    own = jax.random.fold_in(key, optimizer.step[...])
    if rows is not None:
        samples = {k: every.at[rows].get(mode="promise_in_bounds") for k, every in samples.items()}
    views = method.views(samples["images"], own, method.view_count)
    given = plan | {name: of for name, of in samples.items() if name != "images"}

    def loss_of(method: Method) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        loss, x, y = method.contrast(*views, **given)
        return loss, (x, y)

    trained = nnx.DiffState(0, method.trained)
    (loss, (x, y)), gradient = nnx.value_and_grad(loss_of, argnums=trained, has_aux=True)(method)
    optimizer.update(method, gradient)
    state = nnx.state((method, optimizer))
    return jax.lax.with_sharding_constraint((state, (loss, x, y)), everywhere(mesh))


@partial(jax.jit, static_argnames=("graph",))
def encode(graph: nnx.GraphDef[Any], state: nnx.State, images: jax.Array) -> jax.Array:
    """Features (N, F) of uint8 images; norms use their running statistics."""
    return _evaluated(graph, state)(images)


def encode_all(
    graph: nnx.GraphDef[Any], state: nnx.State, images: AnyImages, *, progress: bool = False
) -> Features:
    """Features (N, F) float32 of any number of uint8 images, see `encode`, chunk by chunk."""
    parts = (np.asarray(encode(graph, state, chunk), np.float32) for chunk in filled_chunks(images))
    return joined(parts, len(images), progress=progress)


@partial(jax.jit, static_argnames=("graph",))
def project(
    graph: nnx.GraphDef[Any], state: nnx.State, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Projections (N, d) of two random views of uint8 images; norms use running statistics."""
    return _evaluated(graph, state).project(images, key)


def _evaluated(graph: nnx.GraphDef[Any], state: nnx.State) -> Method:
    method: Method = nnx.merge(graph, state, copy=True)[0]
    method.eval()
    return method


@jax.jit
def all_finite(state: nnx.State) -> jax.Array:
    """Whether every number of a state is finite; only the answer leaves the device."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]).all()
