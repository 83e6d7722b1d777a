# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Keras: from data to a plot
#
# You will train a small network on handwritten digits without a single label, first with InfoNCE,
# then, by changing one line, with f-MICL, and see the ten digits come apart on a map.
#
# It takes about half a minute on one core. In a clone of the repository:
#
#     pip install -e '.[keras,jax]'
#
# and for another Keras backend `tensorflow` or `torch` in place of `jax`. The code stays the same.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split

from fmicl_keras import FMICLLoss, FMICLPenalty, FMICLScore, InfoNCELoss, RandomAffine, TwoViews
from fmicl_recipes.evaluation import evaluate_features

# %% [markdown]
# ## Data, and two views of it
#
# scikit-learn ships 1,797 handwritten digits of 8 x 8 pixels. We put a border of one pixel round
# each one and keep every fifth image for the test. The labels serve the test alone.

# %%
digits = load_digits()
images = np.pad(digits.images / 16, ((0, 0), (1, 1), (1, 1))).astype("float32")  # 0 to 1
train, test, train_labels, test_labels = train_test_split(
    images[..., None], digits.target, test_size=0.2, random_state=0
)

# %% [markdown]
# A contrastive loss learns from **pairs of views**: two random versions of one sample, which should
# end up close to each other, while different samples should not. So the views say what does *not*
# matter. Here that is the place of a digit, a little turning, scaling and shearing, and some noise.
# Any Keras layer that changes images at random will do.

# %%
keras.utils.set_random_seed(0)
augmentation = keras.Sequential(
    [
        RandomAffine(degrees=8, translate=0.12, scale=(0.9, 1.1), shear=8),
        layers.GaussianNoise(0.1),
    ]
)
first, second = (np.asarray(augmentation(test[:8], training=True)) for _ in range(2))
figure, panels = plt.subplots(2, 8, figsize=(7.5, 2.1), layout="constrained")
for pictures, line in zip((first, second), panels, strict=True):
    for picture, axes in zip(pictures, line, strict=True):
        axes.imshow(picture, cmap="gray_r")
        axes.set(xticks=[], yticks=[])
panels[0, 0].set_ylabel("one view")
panels[1, 0].set_ylabel("another")
plt.show()

# %% [markdown]
# ## Train with InfoNCE
#
# The **encoder** makes 64 features of an image; they are what we want. A small **head** on top of
# it makes the 32 numbers that the loss sees, and is thrown away afterwards. `TwoViews` puts
# augmentation, encoder and head together: its output is (batch, 2, 32), the two views of every
# sample, which is what the losses take. After that it is `compile` and `fit`, without targets.
#
# As metrics we watch two numbers that mean the same whatever the loss, the score and the penalty of
# f-MICL; they are explained below.


# %%
def new_encoder():
    """Untrained, and the same every time."""
    keras.utils.set_random_seed(0)
    start = [keras.Input((10, 10, 1)), layers.Flatten()]
    return keras.Sequential([*start, layers.Dense(512, "relu"), layers.Dense(64)])


def train_encoder(criterion, epochs=40):
    """A trained encoder, and (score, penalty) of every epoch."""
    encoder = new_encoder()
    head = keras.Sequential([layers.ReLU(), layers.Dense(32)])
    model = TwoViews(encoder, augmentation, head)
    terms = FMICLLoss(divergence="js", negatives="all")
    model.compile(
        keras.optimizers.Adam(2e-3),
        loss=criterion,
        metrics=[FMICLScore(terms), FMICLPenalty(terms)],
    )
    logs = model.fit(train, batch_size=288, epochs=epochs, verbose=0).history
    return encoder, np.stack([logs["fmicl_score"], logs["fmicl_penalty"]], axis=1)


info_nce, info_nce_history = train_encoder(InfoNCELoss(temperature=0.5))

# %% [markdown]
# ## Train with f-MICL: change one line
#
# InfoNCE is one member of a family. f-MICL takes any $f$-divergence in its place, here
# Jensen-Shannon's (`"js"`):

# %%
f_micl, f_micl_history = train_encoder(
    FMICLLoss(divergence="js", alpha="auto", strength=1.0, negatives="all")
)

# %% [markdown]
# What is it that gets small? With $u(x, y) = e^{-|x - y|^2}$ for two rows of unit length,
#
# $$\text{loss} = -\,\text{score} + \alpha \cdot \text{penalty}$$
#
# - The **score** is the mean of $s = \log \frac{2u}{1 + u}$ over positive pairs, the two views of
#   one digit. It is 0, its largest value, where both views have the same features.
# - The **penalty** is the mean of $f^*(s) = \log \frac{1 + u}{2}$ over negative pairs, views of
#   different digits. It is 0 where all features are the same, and falls as they move apart.
#
# $\alpha$ weighs the two. `alpha="auto"` finds it from each batch, and `strength` says how hard the
# push shall be: 5 unless you say otherwise; for a network as small as this one 1 is better.
# `negatives="all"` takes the pairs that InfoNCE has by default.
#
# Either loss has to raise the score and to lower the penalty:

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.5, 2.8), layout="constrained")
for name, history, style in (
    ("InfoNCE", info_nce_history, {"color": "#0072B2", "linestyle": "--"}),
    ("f-MICL", f_micl_history, {"color": "#D55E00"}),
):
    for term, axes in enumerate(panels):
        axes.plot(np.arange(1, len(history) + 1), history[:, term], label=name, **style)
panels[0].set(xlabel="epoch", ylabel="score", title="Two views of a digit: closer is higher")
panels[1].set(xlabel="epoch", ylabel="penalty", title="Different digits: apart is lower")
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Are the features any good?
#
# We freeze the encoders and ask how well their features tell the digits apart, on test images that
# no training has seen. Every image lies at a random place, without noise. Two tests use labels now:
# **kNN** looks up the nearest training images, of which 200 have labels; **linear** is a linear
# classifier that gets ten labels of every digit.


# %%
def moved(images, rng):
    """Each image by up to one pixel to each side; the digit is always wholly inside."""
    steps = rng.integers(-1, 2, (len(images), 2))
    return np.stack([np.roll(x, step, (0, 1)) for x, step in zip(images, steps, strict=True)])


known, unknown = moved(train, np.random.default_rng(0)), moved(test, np.random.default_rng(1))


def features_of(encoder):
    """Features of the training and of the test images."""
    return encoder.predict(known, verbose=0), encoder.predict(unknown, verbose=0)


features = {
    "pixels": (known.reshape(-1, 100), unknown.reshape(-1, 100)),
    "untrained": features_of(new_encoder()),
    "InfoNCE": features_of(info_nce),
    "f-MICL": features_of(f_micl),
}
knn = {}
for name, (of_train, of_test) in features.items():
    few = evaluate_features(of_train[:200], train_labels[:200], of_test, test_labels, k=5)
    knn[name] = few["knn_accuracy"]
    print(f"{name:10} kNN {few['knn_accuracy']:.3f}  linear {few['linear10_accuracy']:.3f}")

# %% [markdown]
# One image is 0.003 here, so small differences between the two losses mean nothing. What matters is
# how far both are above the untrained network. The same can be seen on a map of the test images
# ([t-SNE](https://scikit-learn.org/stable/modules/manifold.html#t-sne) of the features), where
# every image is drawn as the digit that it shows:

# %%
plt.style.use("petroff10")  # ten colours that colour-blind readers can tell apart
figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.1), layout="constrained")
for name, axes in zip(("untrained", "InfoNCE", "f-MICL"), panels, strict=True):
    points = TSNE(metric="cosine", init="pca", random_state=0).fit_transform(features[name][1])
    for digit in range(10):
        x, y = points[test_labels == digit].T
        axes.scatter(x, y, s=22, linewidths=0.2, marker=f"${digit}$", color=f"C{digit}")
    axes.set(title=f"{name}: kNN {knn[name]:.2f}", xticks=[], yticks=[])
    axes.set(xlabel="t-SNE, first axis")
panels[0].set_ylabel("t-SNE, second axis")
plt.show()

# %% [markdown]
# ## What next
#
# - Change `divergence="js"` to `"kl"` or `"pearson"`, or `strength` to 5, and run it again. Which
#   loss suits you: [choose a loss](../choose.md); what alpha does: [the weight alpha](../alpha.md).
# - Labels, duplicates, more than two views: [which pairs](../pairs.md).
# - Metrics, sample weights, saving, mixed precision, several devices: [Keras](../keras.md).
# - A whole training with one command, augmentations and all: [trainers](../trainers.md).

# %% tags=["remove_cell"]
assert min(knn["InfoNCE"], knn["f-MICL"]) > knn["untrained"] + 0.1
for history in (info_nce_history, f_micl_history):
    assert history[-1, 0] > history[0, 0]
    assert history[-1, 1] < history[0, 1]
