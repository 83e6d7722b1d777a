# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Swap InfoNCE in existing code
#
# You have SimCLR code that works, with a loss written by hand. This page swaps that loss for f-MICL
# in two steps: first for the library's InfoNCE, which has to give **the same number**, then for
# f-MICL, by one import. It says what to watch in the logs, and what stays as it was. The code is
# PyTorch; JAX and TensorFlow have the same names in `fmicl_jax` and `fmicl_tensorflow`.

# %% [markdown]
# ## The existing code
#
# Augmentation, a model and a training loop, on handwritten digits of 8 x 8 pixels.

# %%
import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

digits = load_digits()
images = torch.tensor(digits.images / 16.0, dtype=torch.float32)[:, None]  # (1797, 1, 8, 8)
train, test = np.split(np.random.default_rng(0).permutation(len(images)), [1437])


def augment(images):
    """A random view: each picture is turned, scaled and shifted a little; some noise."""
    n = len(images)
    angle, scale = torch.empty(n).uniform_(-0.3, 0.3), torch.empty(n).uniform_(0.8, 1.2)
    cos, sin, (right, down) = scale * angle.cos(), scale * angle.sin(), 0.6 * torch.rand(2, n) - 0.3
    rows = torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)
    grid = F.affine_grid(torch.stack(rows, 1), images.shape, align_corners=False)
    return F.grid_sample(images, grid, align_corners=False) + 0.1 * torch.randn_like(images)


class Model(nn.Module):
    """An encoder, whose features are used later, and the head that the loss sees."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GroupNorm(4, 64), nn.ReLU(),
            nn.Flatten(), nn.Linear(1024, 64),
        )  # fmt: skip
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, images):
        """Projections (N, 32)."""
        return self.head(self.encoder(images))


# %% [markdown]
# The loss is NT-Xent, the InfoNCE of SimCLR. The projections of both views are stacked: row $i$ and
# row $i + N$ are views of the same picture, and
#
# $$\ell_i = -\log \frac{e^{\cos(z_i, z_{i+N}) / \tau}}{\sum_{k \ne i} e^{\cos(z_i, z_k) / \tau}}.$$


# %%
def nt_xent(z, temperature=0.5):
    """NT-Xent of 2 N stacked projections, as written by hand."""
    z = F.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))


def run(loss_of, model=None, epochs=30):
    """Train on the pictures without their labels; the model, and what `loss_of` logged."""
    torch.manual_seed(0)
    model, log = model or Model(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for chosen in torch.from_numpy(train)[torch.randperm(len(train))].split(256)[:-1]:
            batch = images[chosen]
            z = model(torch.cat([augment(batch), augment(batch)]))  # (2 N, 32)
            loss, logged = loss_of(z)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log.append(logged)
    return model, log


@torch.no_grad()
def accuracy(model):
    """Test accuracy of a linear classifier of the features, with 100 labels."""
    z = model.encoder(images).numpy()
    classifier = LogisticRegression(max_iter=1000).fit(z[train[:100]], digits.target[train[:100]])
    return classifier.score(z[test], digits.target[test])


# %%
def by_hand(z):
    """The existing loss, and what the existing code logs."""
    loss = nt_xent(z)
    return loss, {"loss": loss.item()}


torch.manual_seed(0)
untrained = Model()
old_model, old_log = run(by_hand)
print(f"untrained        {accuracy(untrained):.3f}")
print(f"NT-Xent by hand  {accuracy(old_model):.3f}")

# %% [markdown]
# ## Step 1: the same number
#
# The losses of the library take two arrays, one a view: `z.chunk(2)` cuts the stack in two.
# `info_nce_loss` then is NT-Xent, value and gradient. If this check fails in your code, the rows
# lie in another order (interleaved ones are `z[::2], z[1::2]`), or your loss has another factor.

# %%
from fmicl_torch import info_nce_loss

z = untrained(torch.cat([augment(images[:256]), augment(images[:256])])).detach().requires_grad_()
hand, library = nt_xent(z), info_nce_loss(*z.chunk(2), temperature=0.5)
(slope_hand,), (slope_library,) = (torch.autograd.grad(loss, z) for loss in (hand, library))
print(f"by hand {hand.item():.6f}, library {library.item():.6f}")
print(f"largest difference of a gradient: {(slope_hand - slope_library).abs().max():.1e}")

# %% [markdown]
# ## Step 2: f-MICL
#
# One import and one line. `negatives="all"` takes the pairs that NT-Xent has, those of both views
# (the default, `"anchor"`, is cheaper: those of the first view alone).

# %%
from fmicl_torch import FMICLLoss

criterion = FMICLLoss(divergence="js", alpha="auto", negatives="all")


def f_micl(z, criterion=criterion):
    """f-MICL, and what is worth logging."""
    terms = criterion.terms(*z.chunk(2))  # criterion(*z.chunk(2)) is the loss alone
    return terms.loss, {name: value.item() for name, value in terms._asdict().items()}


new_model, new_log = run(f_micl)
print(f"f-MICL           {accuracy(new_model):.3f}")

# %% [markdown]
# ## What to watch: score, penalty, alpha
#
# $$\text{loss} = -\,\text{score} + \alpha \cdot \text{penalty}$$
#
# The score is the mean over positive pairs, the penalty the mean over negative pairs. `terms` gives
# both, with the alpha that was used; log all three. **The loss alone says little**: its value
# cannot be compared with that of InfoNCE or of another divergence, and as `alpha="auto"` moves, it
# need not even fall.

# %%
figure, panels = plt.subplots(1, 4, figsize=(7, 2.3), layout="constrained")
for axes, name in zip(panels, ("score", "penalty", "alpha", "loss"), strict=True):
    axes.plot([logged[name] for logged in new_log], color="C0", linewidth=1)
    axes.set(title=name, xlabel="step")
    axes.locator_params(axis="both", nbins=4)
plt.show()

# %% [markdown]
# - **penalty** falls towards its limit: different pictures move apart.
# - **alpha** rises as they do, so that the push keeps its strength. If it stays where it began, the
#   features do not spread.
# - **score** begins high, since an untrained network gives all pictures nearly the same features.
#   It falls while that heap is taken apart, and rises from then on: the two views of a picture come
#   together.
#
# Two hyper-parameters do not carry over. The **temperature** belongs to InfoNCE; f-MICL has a
# kernel whose width suits unit rows, so leave it alone at first. In its place there is **alpha**,
# and with `alpha="auto"` there is nothing to choose. A fixed alpha that is too small lets all
# pictures fall together:

# %%
weak = FMICLLoss(divergence="js", alpha=0.3, negatives="all")
sharp_model, _ = run(lambda z: (info_nce_loss(*z.chunk(2), temperature=0.1), {}))
weak_model, _ = run(lambda z: (weak(*z.chunk(2)), {}))
models = {
    "NT-Xent, temperature 0.5": old_model,
    "NT-Xent, temperature 0.1": sharp_model,
    'f-MICL, alpha "auto"': new_model,
    "f-MICL, alpha 0.3": weak_model,
}


@torch.no_grad()
def cosines(model):
    """Cosines of two views of a test picture, and of views of two different ones."""
    torch.manual_seed(1)
    x, y = (F.normalize(model(augment(images[test])), dim=1) for _ in range(2))
    found, itself = x @ y.T, torch.eye(len(test), dtype=torch.bool)
    return found[itself], found[~itself]


figure, panels = plt.subplots(2, 2, figsize=(7, 4), sharex=True, layout="constrained")
close = {}  # share of different pictures that are close
for axes, (name, model) in zip(panels.flat, models.items(), strict=True):
    same, other = cosines(model)
    close[name] = (other > 0.6).float().mean().item()
    bins = {"bins": 50, "range": (-1, 1), "density": True, "histtype": "step", "linewidth": 1.6}
    axes.hist(other.numpy(), **bins, color="C1", linestyle="--", label="two pictures")
    axes.hist(same.numpy(), **bins, color="C0", label="two views of one")
    axes.set(title=f"{name}: accuracy {accuracy(model):.3f}", yticks=[])
    axes.title.set_fontsize(10)
for axes in panels[1]:
    axes.set_xlabel("cosine")
panels[0, 0].legend(loc="upper left")
plt.show()

# %% [markdown]
# A lower temperature and a larger alpha do the same: fewer different pictures stay close to each
# other (the dashed line at the right of each panel). In the last panel all pictures have nearly the
# same features, which the accuracy pays for.
#
# Do not read a ranking from the first three: this is one seed, and 0.01 is about four of the 360
# test pictures. [Findings](../findings.md) compares losses that were tuned alike, over several
# seeds; there none is ahead.

# %% [markdown]
# ## What stays as it was
#
# The loss has no parameters and no state. Optimiser and checkpoints do not change, and training can
# go on from a checkpoint that NT-Xent has left:

# %%
checkpoint = copy.deepcopy(old_model.state_dict())  # stands for torch.load("old.ckpt")
model = Model()
model.load_state_dict(checkpoint)
model, _ = run(f_micl, model, epochs=5)
print("parameters of the loss:", list(criterion.parameters()), criterion.state_dict())
print(f"5 epochs of f-MICL after NT-Xent: {accuracy(model):.3f}")

# %% [markdown]
# Mixed precision, `torch.compile` and DistributedDataParallel stay, too; over several processes say
# `FMICLLoss(..., distributed=True)` ([several devices](../devices.md)).
#
# ## A batch larger than memory
#
# If the code gathers a large batch, `cached_loss` embeds it in mini-batches and has the gradient of
# the whole, here of all 1,437 training pictures in one batch, 128 at a time:

# %%
from fmicl_torch import cached_loss

x, y = augment(images[train]), augment(images[train])
whole = criterion(model(x), model(y))
whole_slopes = torch.autograd.grad(whole, list(model.parameters()))
cached = cached_loss(criterion, model, x, y, mini_batch_size=128)
slopes = torch.autograd.grad(cached, list(model.parameters()))
apart = max((a - b).abs().max().item() for a, b in zip(slopes, whole_slopes, strict=True))
print(f"loss {whole.item():.5f} and {cached.item():.5f}; gradients differ by {apart:.0e} at most")

# %% [markdown]
# ## What next
#
# - [Choose a loss](../choose.md): which divergence, which negatives.
# - [Coming from another library](../coming-from.md): lightly, pytorch-metric-learning, SupCon and
#   others, line by line.
# - [The weight alpha](../alpha.md): what `"auto"` does, and where a fixed alpha comes from.
# - [Batches larger than memory](../large-batches.md): what `cached_loss` costs, and what it
#   refuses.

# %% tags=["remove_cell"]
assert abs(hand.item() - library.item()) < 1e-5
assert (slope_hand - slope_library).abs().max() < 1e-6
assert accuracy(old_model) > accuracy(untrained) + 0.03
assert accuracy(new_model) > accuracy(untrained) + 0.03
scores = [logged["score"] for logged in new_log]
assert scores[0] > scores[-1] > min(scores) + 0.1
assert new_log[-1]["penalty"] < new_log[0]["penalty"]
assert new_log[-1]["alpha"] > 2 * new_log[0]["alpha"]
assert close["NT-Xent, temperature 0.1"] < close["NT-Xent, temperature 0.5"] - 0.01
assert close["f-MICL, alpha 0.3"] > 0.9
assert accuracy(weak_model) < accuracy(new_model)
assert not list(criterion.parameters())
assert not criterion.state_dict()
assert accuracy(model) > accuracy(untrained) + 0.03
assert abs(whole.item() - cached.item()) < 1e-5
assert apart < 1e-5
