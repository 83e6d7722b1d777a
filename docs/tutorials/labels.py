# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Labels and three views, in JAX
#
# You have pictures with labels, and make three random views of each. This is the loss:
#
# ```python
# from fmicl_jax import fmicl_loss
#
# z = encode(weights, jnp.concatenate([view_1, view_2, view_3]))  # (3 N, D): one array
# loss = fmicl_loss(z, ids=jnp.tile(labels, 3), alpha="auto")
# ```
#
# All views lie in **one array**, and `ids` has one whole number for each of its rows. Rows with
# equal ids belong together and are pulled towards each other; rows with different ids are pushed
# apart. With labels as ids, all three views of all pictures of a class belong together. It is the
# same for two views or ten.
#
# The rest of this page compares that loss with the supervised contrastive loss (SupCon) and with
# training without labels.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from fmicl_jax import fmicl_loss, info_nce_loss

# %% [markdown]
# ## Three losses for one array
#
# | ids | loss | what belongs together |
# | --- | --- | --- |
# | labels | `fmicl_loss(z, ids=labels)` | all views of all pictures of a class |
# | labels | `info_nce_loss(z, ids=labels)` | the same; this is SupCon (Khosla et al. 2020) |
# | picture numbers | `fmicl_loss(z, ids=numbers)` | the views of a picture; no labels needed |
#
# All three take `z` and `ids`, so that trying another one is a change of one line.

# %%
LOSSES = {
    "f-MICL, labels": lambda z, labels, numbers: fmicl_loss(z, ids=labels, alpha="auto"),
    "SupCon, labels": lambda z, labels, numbers: info_nce_loss(z, ids=labels, temperature=0.1),
    "f-MICL, no labels": lambda z, labels, numbers: fmicl_loss(z, ids=numbers, alpha="auto"),
}

# %% [markdown]
# `alpha` weighs the push against the pull. `"auto"` finds it from each batch, so that there is
# nothing to tune ([the weight alpha](../alpha.md)). SupCon has a temperature in its place.

# %% [markdown]
# ## What each loss does to a pair
#
# Take 24 unit rows in four classes. A loss that depends on their cosines $c_{ij} = z_i \cdot z_j$
# pulls a pair together if it falls as $c_{ij}$ grows: the pull is $-\partial\,\text{loss} /
# \partial c_{ij}$, and a negative pull is a push. To get at it, we write $z$ as a function of the
# cosines, by a Cholesky factor, and let JAX differentiate.

# %%
rng = np.random.default_rng(0)
classes = np.repeat(np.arange(4), 6)
spread = np.tile(np.linspace(0.1, 1.6, 6), 4)[:, None]  # some rows near their class's centre
rows = np.eye(64)[classes] + 0.35 * spread * rng.normal(size=(24, 64)) / 2
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
cosines = jnp.asarray(rows @ rows.T)


def pulls(loss):
    """The pull (24, 24) that a loss has on every pair of rows."""
    return -jax.grad(lambda c: loss(jnp.linalg.cholesky(c), classes, None))(cosines)


same = (classes[:, None] == classes) & ~np.eye(24, dtype=bool)
other = classes[:, None] != classes
pull = {name: np.asarray(pulls(LOSSES[name])) for name in ("f-MICL, labels", "SupCon, labels")}

figure, panels = plt.subplots(1, 2, figsize=(7, 3.2), sharex=True, layout="constrained")
for axes, (name, force) in zip(panels, pull.items(), strict=True):
    axes.axhline(0.0, color="0.6", linewidth=1)
    for pairs, colour, mark, which in ((same, "C0", "o", "same"), (other, "C1", "x", "other")):
        axes.scatter(
            cosines[pairs], force[pairs], s=14, c=colour, marker=mark, label=f"{which} class"
        )
    axes.set(title=name, xlabel="cosine of the pair")
panels[0].set_ylabel("pull  (below 0: push)")
panels[0].legend()
plt.show()

# %% [markdown]
# **f-MICL with labels does not repel within a class**: every blue point of the left panel lies
# above 0. In SupCon the positives stand in the denominator, too, so that it pushes the closest rows
# of a class apart. Neither is wrong: choose f-MICL if rows of a class may fall together, SupCon if
# they should stay apart a little.

# %% [markdown]
# ## Train with each
#
# The digits of scikit-learn, 8 x 8 pixels, in a frame of 10 x 10. A view has the digit at a random
# place, with another contrast and some noise.

# %%
digits = load_digits()
train, test = np.split(np.random.default_rng(0).permutation(len(digits.target)), [1437])
VIEWS = 3


def view(chosen, rng):
    """A random view (N, 100) of the chosen pictures."""
    frames, n = np.zeros((len(chosen), 10, 10)), np.arange(len(chosen))[:, None, None]
    top, left = rng.integers(0, 3, (2, len(chosen), 1)) + np.arange(8)
    contrast = rng.uniform(0.7, 1.3, (len(chosen), 1, 1))
    frames[n, top[:, :, None], left[:, None]] = contrast * digits.images[chosen] / 16.0
    return (frames + rng.normal(0.0, 0.1, frames.shape)).reshape(-1, 100).astype(np.float32)


def encode(weights, images):
    """Features (N, 32) by three layers."""
    for kernel, bias in weights[:-1]:
        images = jax.nn.relu(images @ kernel + bias)
    return images @ weights[-1][0] + weights[-1][1]


def new_weights():
    """Random weights, the same for every loss."""
    he, keys = jax.nn.initializers.he_uniform(), jax.random.split(jax.random.key(0), 3)
    sizes = ((100, 256), (256, 64), (64, 32))
    return [(he(key, size), jnp.zeros(size[1])) for key, size in zip(keys, sizes, strict=True)]


# %% [markdown]
# Three views are stacked one after the other, so the ids are stacked in the same way:
# `jnp.tile(ids, 3)`.


# %%
def trained(loss, epochs=60):
    """Weights after training with the loss."""
    weights, rng = new_weights(), np.random.default_rng(0)
    optimizer = optax.adam(2e-3)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state, views, labels, numbers):
        def loss_of(weights):
            z = encode(weights, jnp.concatenate(views))  # (3 N, 32)
            return loss(z, jnp.tile(labels, VIEWS), jnp.tile(numbers, VIEWS))

        updates, state = optimizer.update(jax.grad(loss_of)(weights), state)
        return optax.apply_updates(weights, updates), state

    for _ in range(epochs):
        for chosen in np.split(rng.permutation(train)[:1408], 11):  # 128 pictures a step
            views = [view(chosen, rng) for _ in range(VIEWS)]
            weights, state = step(weights, state, views, digits.target[chosen], chosen)
    return weights


results = {"untrained": new_weights()} | {name: trained(loss) for name, loss in LOSSES.items()}

# %% [markdown]
# `jax.jit` compiles a step once: ids are data, so that other labels in the next batch compile
# nothing new.

# %% [markdown]
# ## What came of it
#
# Features of test pictures, which training has not seen, and their accuracy by the five nearest
# training pictures.

# %%
everything = view(np.arange(len(digits.target)), np.random.default_rng(1))


def unit_features(weights):
    """Unit features (1797, 32) of one view of every picture."""
    z = np.asarray(encode(weights, everything))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


accuracies, features = {}, {name: unit_features(weights) for name, weights in results.items()}
for name, z in features.items():
    nearest = KNeighborsClassifier(5).fit(z[train], digits.target[train])
    accuracies[name] = nearest.score(z[test], digits.target[test])
    print(f"{name:18} {accuracies[name]:.3f}")

# %%
labels = digits.target[test]
same = (labels[:, None] == labels) & ~np.eye(len(test), dtype=bool)
other = labels[:, None] != labels
figure, panels = plt.subplots(1, 3, figsize=(7, 2.8), sharey=True, layout="constrained")
medians = {}
for axes, name in zip(panels, LOSSES, strict=True):
    found = features[name][test] @ features[name][test].T
    medians[name] = np.median(found[same])
    bins = {"bins": 40, "range": (-1, 1), "density": True, "linewidth": 1.6}
    axes.hist(found[other], **bins, histtype="step", color="C1", linestyle="--", label="other")
    axes.hist(found[same], **bins, histtype="step", color="C0", label="same class")
    axes.set(title=name, xlabel="cosine of two pictures")
panels[0].set_ylabel("share of pairs (density)")
panels[0].legend(loc="upper left")
plt.show()

# %% [markdown]
# With labels, pictures of one class lie close together and classes are far apart. Without labels
# there is a class structure, too, though no loss has seen one: a picture and its views are what is
# pulled together.

# %% [markdown]
# ## What next
#
# - [Which pairs](../pairs.md): every use of `ids`, with pictures: labels and two views, a queue
#   with labels, duplicates that are merely no negatives.
# - [Choose a loss](../choose.md), and [the family](../family.md) of losses by their names.
# - The same names and arguments are in `fmicl_torch` and `fmicl_tensorflow`. Do you come from
#   `SupConLoss`? [Coming from another library](../coming-from.md) has it line by line.
# - `fmicl train simclr --supervised --views 3` trains on your pictures and labels:
#   [Trainers](../trainers.md).

# %% tags=["remove_cell"]
off = (classes[:, None] == classes) & ~np.eye(24, dtype=bool)
assert (pull["f-MICL, labels"][off] > 0).all()
assert (pull["SupCon, labels"][off] < 0).mean() > 0.1
assert accuracies["f-MICL, labels"] > accuracies["untrained"] + 0.1
assert accuracies["SupCon, labels"] > accuracies["untrained"] + 0.1
assert accuracies["f-MICL, no labels"] > accuracies["untrained"] + 0.1
assert accuracies["f-MICL, labels"] > accuracies["f-MICL, no labels"]
assert medians["f-MICL, labels"] > medians["f-MICL, no labels"] + 0.2
