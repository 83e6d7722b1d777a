# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Two towers: images and captions
#
# Two encoders, one of images and one of texts, learn to put an image and its caption in the same
# place. CLIP and SigLIP are the two losses that are used for it. In fmicl both are modules that own
# what they learn:
#
# ```python
# from fmicl_torch import SigLIPLoss  # or CLIPLoss
#
# criterion = SigLIPLoss()  # a scale and a bias, which learn
# loss = criterion(image_tower(images), text_tower(captions))
# ```
#
# Here handwritten digits are the images, and phrases such as "the digit three" the captions. It
# takes seconds.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import normalize

from fmicl_torch import CLIPLoss, SigLIPLoss

# %% [markdown]
# ## Images and captions
#
# Every image has several captions, in one of eight phrases. A ninth phrase is kept for testing. A
# text is a set of letter triples, each with a number, so that the text tower can be a table of
# embeddings.

# %%
digits = load_digits()
images = torch.tensor(digits.images / 16.0, dtype=torch.float32).flatten(1)  # (1797, 64)
train, test = np.split(np.random.default_rng(0).permutation(len(images)), [1437])

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PHRASES = ["a handwritten {}", "the digit {}", "{}", "somebody wrote {} here", "this says {}",
           "an image of a {}", "the numeral for {}", "{} in grey"]  # fmt: skip
NEW_PHRASE = "a picture of the number {}"  # in no training batch
TRIPLES, LENGTH = 512, 40


def triples(caption):
    """Numbers (40,) of the letter triples of a caption; 0 fills shorter ones up."""
    letters = f" {caption} ".encode()
    three = zip(letters, letters[1:], letters[2:], strict=False)
    rows = [1 + (961 * a + 31 * b + c) % (TRIPLES - 1) for a, b, c in three]
    return rows + [0] * (LENGTH - len(rows))


captions = torch.tensor([[triples(p.format(name)) for p in PHRASES] for name in NAMES])
print(captions.shape, "for ten digits and eight phrases")

# %% [markdown]
# ## The towers
#
# Two modules with features of the same width, and the loss beside them. **Give the optimiser the
# parameters of the loss, too**: they are what learns the scale and the bias.
# `Towers(...).parameters()` holds all three.


# %%
class Towers(nn.Module):
    """An image tower, a text tower, and the loss with what it learns."""

    def __init__(self, criterion):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
        table = nn.EmbeddingBag(TRIPLES, 64, padding_idx=0)
        self.text = nn.Sequential(table, nn.ReLU(), nn.Linear(64, 32))
        self.criterion = criterion

    def forward(self, images, captions, ids):
        """The loss of a batch; images and captions with equal ids belong together."""
        return self.criterion(self.image(images), self.text(captions), ids=ids)


# %% [markdown]
# ## Which images and captions belong together
#
# Without `ids`, row $i$ of the images belongs to row $i$ of the captions, and to no other. That
# would be wrong here: a batch has about 29 images of a three, and each caption of a three fits them
# all. `ids` says so: **rows with equal ids belong together**, and none of them is a negative.
#
# With several captions an image you do the same. Repeat each caption's image, and let `ids` say
# which image a caption is of:
#
# ```python
# of = torch.tensor([0, 0, 0, 1, 1])  # three captions of image 0, two of image 1
# loss = criterion(image_tower(images)[of], text_tower(captions), ids=of)
# ```


# %%
def trained(criterion, epochs=60):
    """Towers after training, and the loss's scale at every step."""
    torch.manual_seed(0)
    towers, scales = Towers(criterion), []
    optimizer = torch.optim.Adam(towers.parameters(), lr=2e-3)
    labels = torch.from_numpy(digits.target)
    for _ in range(epochs):
        for chosen in torch.from_numpy(train)[torch.randperm(len(train))].split(288)[:4]:
            views = images[chosen] + 0.1 * torch.randn(len(chosen), 64)
            phrases = torch.randint(len(PHRASES), (len(chosen),))
            loss = towers(views, captions[labels[chosen], phrases], labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scales.append(criterion.log_scale.exp().item())
    return towers, scales


torch.manual_seed(0)
untrained = Towers(SigLIPLoss())
runs = {"SigLIP": trained(SigLIPLoss()), "CLIP": trained(CLIPLoss())}

# %% [markdown]
# ## Retrieval
#
# What such towers are for: find the caption of an image, and the images of a caption. Test images
# are new; the phrase of the captions is one of training, or the new one.

# %%
truth = digits.target[test]


@torch.no_grad()
def similarities(towers, phrase="the digit {}"):
    """Cosines (360, 10) of the test images and of ten captions."""
    texts = torch.tensor([triples(phrase.format(name)) for name in NAMES])
    return (normalize(towers.image(images[test])) @ normalize(towers.text(texts)).T).numpy()


found = {"untrained": untrained} | {name: towers for name, (towers, _) in runs.items()}
caption_of, images_of = {}, {}
print(f"{'':24}caption of an image   first 10 images of a caption")
for name, towers in found.items():
    for which, phrase in (("known phrase", "the digit {}"), ("new phrase", NEW_PHRASE)):
        cosines = similarities(towers, phrase)
        first = np.argsort(-cosines, axis=0)[:10]  # (10, 10): the ten best images of each caption
        caption_of[name, which] = (cosines.argmax(axis=1) == truth).mean()
        images_of[name, which] = (truth[first] == np.arange(10)).mean()
        shares = f"{caption_of[name, which]:.3f}                 {images_of[name, which]:.3f}"
        print(f"{name:10}{which:14}{shares}")

# %% [markdown]
# Shares that are right; guessing gives 0.1. An image finds its caption in any phrase. A caption in
# the new phrase finds its images less well: the new words move all ten captions in about the same
# direction. That changes the ten cosines of an image alike, and so not which is largest, but it
# changes the order of images of a caption.
#
# The same in a picture: test images, ordered by their digit, in rows, and captions in columns.
# After training each image is most similar to the caption of its own digit.

# %%
order = np.argsort(truth, kind="stable")
figure, panels = plt.subplots(1, 3, figsize=(7, 3.4), sharey=True, layout="constrained")
for axes, (name, towers) in zip(panels, found.items(), strict=True):
    shown = axes.imshow(
        similarities(towers)[order], cmap="cividis", vmin=-1, vmax=1, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    axes.set_title(name)
    axes.set_xticks(range(10), NAMES, rotation=90)
panels[0].set_ylabel("test images, by digit")
middles = [np.flatnonzero(truth[order] == digit).mean() for digit in range(10)]
panels[0].set_yticks(middles, range(10))
figure.colorbar(shown, ax=panels, label="cosine")
plt.show()

# %% [markdown]
# ## What the loss learns
#
# Cosines lie between -1 and 1, which is too narrow for a probability. Both losses stretch them by a
# scale $t$, and SigLIP adds a bias $b$. SigLIP asks of each pair alone whether it belongs together,
# with probability $\sigma(t \cos(x, y) + b)$; CLIP asks which caption of the batch is the image's,
# by a softmax of $t \cos$, in which a bias would cancel.

# %%
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
for (name, (_, scales)), style in zip(runs.items(), ("C0-", "C1--"), strict=True):
    axes.plot(scales, style, label=name)
axes.set(xlabel="step", ylabel="learned scale t")
axes.legend()
plt.show()
learned = {}
for name, (towers, _) in runs.items():
    learned[name] = {k: round(v.item(), 2) for k, v in towers.criterion.named_parameters()}
print(learned)

# %% [markdown]
# `log_scale` is the logarithm of $t$, so that $t$ stays above 0. SigLIP's scale rises; CLIP's
# hardly moves in this training. Watch the scale in your logs: if it rises without end, the loss is
# sure of its pairs and only sharpens them. CLIP's authors limit it to 100.

# %% [markdown]
# ## What next
#
# - Duplicate captions that should be neither positives nor negatives: `criterion(x, y, ids=ids)` of
#   `CLIPLoss(positives="pair")`: [Which pairs](../pairs.md).
# - Several processes: `SigLIPLoss(distributed=True)` is the loss of the whole batch on every one of
#   them: [Several devices](../devices.md).
# - Batches larger than memory: `cached_loss(criterion, (image_tower, text_tower), images, captions,
#   ...)`: [Large batches](../large-batches.md).
# - In JAX and TensorFlow `siglip_loss` and `clip_loss` take scale and bias as arguments, in Keras
#   the losses are layers; speed and memory beside other libraries: [The
#   family](../family.md#two-towers).
# - Two towers with an f-divergence: `fmicl_loss(x, y, negatives="cross", divergence="js")`: [Choose
#   a loss](../choose.md).

# %% tags=["remove_cell"]
for name, (towers, _) in runs.items():
    assert caption_of[name, "known phrase"] > 0.9
    assert caption_of[name, "new phrase"] > max(0.8, caption_of["untrained", "new phrase"] + 0.3)
    assert images_of[name, "known phrase"] > 0.9
    assert images_of[name, "new phrase"] < images_of[name, "known phrase"]
    assert all(p.grad.abs().sum() > 0 for p in towers.parameters())
scales = runs["SigLIP"][1]
assert scales[-1] > scales[0] + 1
