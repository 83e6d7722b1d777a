# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Your own encoder and data
#
# You have a folder of pictures and an `nn.Module` that turns pictures into features. This page
# trains the one on the other, twice: in a loop of your own, with nothing of fmicl but the loss, and
# by the library's SimCLR, which brings views, head, schedule and checks. (If an encoder of the
# library will do, you need no code at all: see the end.)

# %% tags=["remove_cell"]
import warnings

warnings.filterwarnings("ignore", message="IProgress")  # of tqdm, which finds no widgets here
warnings.filterwarnings("ignore", module="lightning")  # advice on workers and logging steps

# %% [markdown]
# ## The pictures
#
# Any folder of PNG, JPEG and other files will do. Sub-folders are classes; without them there are
# no labels, and none are needed for training. Here we write handwritten digits into a temporary
# folder, to stand for your pictures, each somewhere in a frame of 12 x 12 pixels.

# %%
import tempfile
from pathlib import Path

import lightning
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

folder, rng = Path(tempfile.mkdtemp()) / "pictures", np.random.default_rng(0)
digits = load_digits()
for number, (digit, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    picture, (top, left) = np.zeros((12, 12), np.uint8), rng.integers(0, 5, 2)
    picture[top : top + 8, left : left + 8] = digit * 255 / 16
    path = folder / f"digit_{label}" / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)

# %% [markdown]
# `load_images` reads the folder, makes all pictures uint8 arrays of one shape, and holds a fifth of
# them out for testing if there is no `test` folder. [Data](../data.md) has the rules: splits,
# sizes, 16 bits, transparency, damaged files, tables, arrays of your own. (Your own `Dataset` and
# `DataLoader` do as well: the losses see nothing but features.)

# %%
from fmicl_recipes.data import load_images

data = load_images(str(folder))  # image_size=64 resizes pictures of different sizes
print(data.train_images.shape, data.train_images.dtype, data.class_names[:3], "...")

# %% [markdown]
# ## The encoder
#
# Any module from pictures (N, C, H, W) to features (N, F).


# %%
class Encoder(nn.Module):
    """Three convolutions, and the mean over all places."""

    features = 128

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential()
        for inputs, outputs, stride in ((1, 32, 1), (32, 64, 2), (64, 128, 2)):
            convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.layers.extend([convolution, nn.BatchNorm2d(outputs), nn.ReLU()])

    def forward(self, pictures):
        """Features (N, 128) of pictures (N, 1, 12, 12)."""
        return self.layers(pictures).mean((2, 3))


# %% [markdown]
# ## The views
#
# A contrastive loss pulls two random views of a picture together, so views say **what does not
# matter** in your pictures. That is the one thing only you know: a flipped digit is another
# character, a flipped cat is a cat. So write your own, for a whole batch of floats at once. (For
# photographs there is `fmicl_lightning.build_augmentation("photo", size)`: crop, flip, colours,
# grey and blur of SimCLR.)


# %%
class Views(nn.Module):
    """A random view: each picture is turned, scaled and shifted a little; some noise."""

    def forward(self, pictures):
        """Views (N, C, H, W) of pictures (N, C, H, W)."""
        n = len(pictures)
        angle, scale = torch.empty(n).uniform_(-0.25, 0.25), torch.empty(n).uniform_(0.8, 1.2)
        cos, sin, shift = scale * angle.cos(), scale * angle.sin(), 0.6 * torch.rand(2, n) - 0.3
        rows = torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)
        grid = F.affine_grid(torch.stack(rows, 1), pictures.shape, align_corners=False)
        moved = F.grid_sample(pictures, grid, align_corners=False)
        return moved + 0.1 * torch.randn_like(pictures)


augment = Views()


def as_floats(images):
    """Floats (N, C, H, W) in [0, 1] of uint8 pictures (N, H, W, C)."""
    return torch.as_tensor(images).permute(0, 3, 1, 2) / 255


torch.manual_seed(0)
some = as_floats(data.train_images[:8])
figure, panels = plt.subplots(3, 8, figsize=(7, 2.8), layout="constrained")
for row, (name, shown) in enumerate(
    {"picture": some, "view 1": augment(some), "view 2": augment(some)}.items()
):
    for axes, picture in zip(panels[row], shown, strict=True):
        axes.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
    panels[row, 0].set_ylabel(name)
plt.show()

# %% [markdown]
# Look at your views before you train. A person should still see what is in them.

# %% [markdown]
# ## A loop of your own
#
# A small head stands between features and loss, and is thrown away afterwards. Of fmicl there is
# one line: `criterion(x, y)`, where row $i$ of `x` and row $i$ of `y` come from views of the same
# picture.

# %%
from fmicl_torch import FMICLLoss

torch.manual_seed(0)
encoder = Encoder()
head = nn.Sequential(nn.Linear(Encoder.features, 128), nn.ReLU(), nn.Linear(128, 64))
criterion = FMICLLoss(divergence="js", alpha="auto", negatives="all")
optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
loader = torch.utils.data.DataLoader(
    torch.from_numpy(data.train_images), batch_size=128, shuffle=True, drop_last=True
)
EPOCHS = 20

for epoch in range(EPOCHS):
    for images in loader:
        pictures = as_floats(images)
        x, y = (head(encoder(augment(pictures))) for _ in range(2))
        loss = criterion(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 5 == 4:
        terms = criterion.terms(x, y)
        print(f"epoch {epoch + 1}: score {terms.score:.2f}, alpha {terms.alpha:.1f}")

# %% tags=["remove_cell"]
import logging

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no advice on this page

# %% [markdown]
# ## The library's SimCLR
#
# `fmicl_lightning.SimCLR` takes the same encoder, loss and views. It adds the paper's head, warm-up
# and cosine schedule, and in every epoch measures how aligned, uniform and spread out the features
# are. It is a LightningModule: devices, mixed precision and checkpoints are those of
# `lightning.Trainer`. Batches are uint8 pictures (N, H, W, C), as the loader above has them.

# %%
from fmicl_lightning import SimCLR

torch.manual_seed(0)
simclr = SimCLR(
    Encoder(), Encoder.features, criterion, augment,
    projection_hidden=128, projection_dim=64, optimizer="adamw", lr=3e-3, warmup_epochs=1,
)  # fmt: skip
trainer = lightning.Trainer(
    max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(simclr, loader)
print({name: round(float(value), 2) for name, value in simclr.history[-1].items()})

# %% [markdown]
# The same loop is there for momentum encoders (`MoCo`, `MoCoV3`), for more views (`views=4`) and
# for labels (`supervised=True`): [Trainers](../trainers.md).

# %% [markdown]
# ## Is it any good?
#
# `evaluate_features` scores the features of held-out pictures: by the nearest neighbours, and by a
# linear classifier with ten labels a class and with all. It takes features of anything, so that
# pixels and the untrained encoder tell how much training has gained.

# %%
from fmicl_recipes.evaluation import evaluate_features


@torch.no_grad()
def features(encoder, images):
    """Features (N, F) of uint8 pictures, as NumPy."""
    return encoder.eval()(as_floats(images)).numpy()


torch.manual_seed(0)
untrained = Encoder()
of = {
    "pixels": lambda images: images.reshape(len(images), -1) / np.float32(255),
    "untrained": lambda images: features(untrained, images),
    "own loop": lambda images: features(encoder, images),
    "SimCLR": lambda images: simclr.eval()(torch.from_numpy(images)).detach().numpy(),
}
scores = {
    name: evaluate_features(
        encode(data.train_images), data.train_labels, encode(data.test_images), data.test_labels
    )
    for name, encode in of.items()
}
figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
shown = {"linear10": "ten labels a class", "linear": "all labels", "knn": "kNN, all labels"}
colours = ("C0", "C1", "0.7")
for place, ((kind, label), colour) in enumerate(zip(shown.items(), colours, strict=True)):
    values = [found[f"{kind}_accuracy"] for found in scores.values()]
    at = np.arange(len(scores)) + 0.28 * (place - 1)
    bars = axes.bar(at, values, 0.26, color=colour, label=label)
    axes.bar_label(bars, fmt="%.2f", fontsize=8)
axes.set_xticks(range(len(scores)), list(scores))
axes.set(ylabel="test accuracy", ylim=(0, 1.4), yticks=np.linspace(0, 1, 5))
axes.legend(ncols=3, loc="upper left")
plt.show()

# %% [markdown]
# What training without labels has learned shows where labels are few: with ten a class the features
# give more than twice as many right answers as pixels or the untrained encoder. Only kNN on pixels
# is a match for them: among 1,437 labelled pictures there nearly always is one of the same digit at
# the same place.

# %% [markdown]
# ## Keep the encoder
#
# The encoder is yours, so save it as you save any module: `torch.save(encoder.state_dict(),
# "encoder.pt")`. The loss has nothing to save.
#
# ## Without code
#
# If one of the library's encoders will do (ResNet-18 and 50, small vision transformers, a small
# convolutional network, any of timm's or torchvision's), one command does all of this page, in
# PyTorch, JAX or Keras. It writes checkpoints, scores and pictures into a folder, and goes on where
# it stopped with `--resume`:
#
#     fmicl train simclr --data PATH/TO/pictures --image-size 64 --out runs/first
#
# ## What next
#
# - [Choose a loss](../choose.md), and [which pairs](../pairs.md) if your pictures have labels or
#   duplicates.
# - [Data](../data.md): folders, tables, and data sets that do not fit in memory.
# - [Trainers](../trainers.md): MoCo, more views, several devices, all options.
# - [Weights that travel](../weights.md): what the command writes loads in every framework.
# - [Batches larger than memory](../large-batches.md).

# %% tags=["remove_cell"]
assert data.train_images.shape == (1437, 12, 12, 1)
assert data.class_names == tuple(f"digit_{i}" for i in range(10))
for name in ("own loop", "SimCLR"):
    for before in ("pixels", "untrained"):
        assert scores[name]["linear10_accuracy"] > 1.8 * scores[before]["linear10_accuracy"]
        assert scores[name]["linear_accuracy"] > scores[before]["linear_accuracy"] + 0.1
    assert scores[name]["knn_accuracy"] > scores["untrained"]["knn_accuracy"]
