# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Train in JAX, fine-tune in PyTorch
#
# An encoder that one framework has trained loads in any other, with the same features. Here JAX
# trains one without labels, and PyTorch fine-tunes it with a few: the usual way to use such an
# encoder where labels are dear.

# %% tags=["remove_cell"]
import warnings

warnings.filterwarnings("ignore", message="IProgress")  # of tqdm, which finds no widgets here

# %% [markdown]
# ## Train in JAX
#
# In a shell it is one command:
#
#     fmicl train simclr --framework jax --data digits --epochs 20 --out runs/js --divergence js
#
# and this is the same in Python. `resolve("digits", ...)` are the options that suit handwritten
# digits: a small convolutional network, batches of 128. With a folder of your own pictures, `data`
# is its path.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fmicl_flax import MethodTrainer
from fmicl_recipes import resolve
from fmicl_recipes.run import train_run

run = Path(tempfile.mkdtemp()) / "js"
settings = resolve("digits", {"framework": "jax", "divergence": "js", "epochs": 20})
metrics = train_run(MethodTrainer, settings, run, progress=False, pictures=False)
print({name: round(value, 3) for name, value in metrics.items() if name.endswith("_accuracy")})

# %% [markdown]
# Training has seen no label. The accuracies are those of classifiers on its features, which do have
# labels.

# %% [markdown]
# ## What the folder holds
#
# `encoder.safetensors` has the weights by the names of torchvision and timm, in PyTorch's layouts;
# `model.json` says how to build the network. Nothing in the folder is run when it is loaded, and
# other code can read it without fmicl.

# %%
print(sorted(path.name for path in run.iterdir() if path.suffix in (".json", ".safetensors")))

# %% [markdown]
# ## Load it in PyTorch
#
# `load_encoder` gives an `nn.Module` from images (N, C, H, W), uint8 or floats in [0, 1], to
# features (N, F). It standardises the images as in training. The features are those of JAX:

# %%
import fmicl_flax
from fmicl_lightning import build_encoder, load_encoder
from fmicl_recipes.data import load_images

data = load_images("digits")  # 8 x 8 pixels; a fifth is held out


def as_tensor(images):
    """Images (N, C, H, W) of NumPy's (N, H, W, C), still uint8."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


encoder = load_encoder(run)
with torch.no_grad():
    by_torch = encoder(as_tensor(data.test_images)).numpy()
by_jax = fmicl_flax.features(run, data.test_images)
apart = np.abs(by_torch - by_jax).max() / np.abs(by_jax).max()
print(f"{by_torch.shape[1]} features; they differ by {apart:.0e} of the largest")

# %% [markdown]
# ## Fine-tune with few labels
#
# From here on it is plain PyTorch: a linear layer behind the encoder, and both are trained. We
# compare three ways to spend 3, 6 or 12 labels a class, each with three draws of the labelled
# images:
#
# - **fine-tuned**: encoder and linear layer learn;
# - **frozen**: the linear layer alone learns;
# - **from scratch**: the same network with random weights, trained like the first.


# %%
def classifier(encoder, images, labels, frozen=False, epochs=30):
    """Encoder and linear layer, trained on labelled images."""
    torch.manual_seed(0)
    last = nn.Linear(encoder.num_features, 10)
    model = nn.Sequential(encoder.requires_grad_(not frozen), last)
    learning = last if frozen else model
    optimizer = torch.optim.SGD(learning.parameters(), lr=0.03, momentum=0.9, nesterov=True)
    model.train(not frozen)  # batch norms take the statistics of a batch where they learn
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(30):
            optimizer.zero_grad()
            cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def from_scratch():
    """The same network with random weights."""
    fresh = load_encoder(run)
    torch.manual_seed(0)
    fresh.network = build_encoder(settings.encoder, channels=1, width=settings.width)
    return fresh


@torch.no_grad()
def accuracy(model):
    """Test accuracy."""
    found = model(as_tensor(data.test_images)).argmax(dim=1).numpy()
    return (found == data.test_labels).mean()


counts, draws, accuracies = (3, 6, 12), 3, {}
for count in counts:
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(data.train_images))
        rows = [order[data.train_labels[order] == digit][:count] for digit in range(10)]
        rows = np.concatenate(rows)
        labelled = as_tensor(data.train_images[rows]), torch.from_numpy(data.train_labels[rows])
        tuned = classifier(load_encoder(run), *labelled)
        models = {
            "fine-tuned": tuned,
            "frozen": classifier(load_encoder(run), *labelled, frozen=True),
            "from scratch": classifier(from_scratch(), *labelled),
        }
        for name, model in models.items():
            accuracies.setdefault((name, count), []).append(accuracy(model))
means = {pair: np.mean(values) for pair, values in accuracies.items()}

# %%
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, style in zip(models, ("C0o-", "C1s--", "k^:"), strict=True):
    values = [means[name, count] for count in counts]
    axes.plot(counts, values, style, label=name)
    print(f"{name:14}" + "  ".join(f"{value:.3f}" for value in values))
axes.set(xlabel="labels a class", ylabel="test accuracy", xticks=counts)
axes.legend()
axes.grid(alpha=0.3)
plt.show()

# %% [markdown]
# The encoder that has seen many images without labels is ahead of random weights. With very few
# labels it is best left as it is: what is frozen cannot be unlearned. With more labels fine-tuning
# catches up, and so does training from scratch. (Numbers are means of three draws on 360 test
# images, and one encoder; 0.01 is about four images.)

# %% [markdown]
# ## What next
#
# - [Weights that travel](../weights.md): all frameworks and architectures, how equal their features
#   are, how to continue training in another framework (`--init`), model cards, the hub, strangers'
#   folders. Fine-tuning in Flax and Keras: `examples/finetune_jax.py` and
#   `examples/finetune_keras.py`.
# - The other way round, `--framework torch` trains and `fmicl_flax.load_encoder` gives an
#   `nnx.Module`.
# - [Trainers](../trainers.md): all options of `fmicl train`; [Your own encoder and
#   data](own_data.py).
# - [Choose a loss](../choose.md).

# %% tags=["remove_cell"]
from fmicl_lightning.weights import get_arrays

assert apart < 1e-4
for count in counts:
    assert max(means["fine-tuned", count], means["frozen", count]) > means["from scratch", count]
ahead = {count: means["frozen", count] - means["from scratch", count] for count in counts}
assert ahead[3] > max(ahead[12], 0.02)
assert means["frozen", 3] > means["fine-tuned", 3]
assert means["fine-tuned", 12] > 0.9
before, after = (get_arrays(each.network) for each in (encoder, tuned[0]))
still = [name for name in before if np.array_equal(before[name], after[name])]
assert not [name for name in still if "num_batches" not in name], still  # fine-tuning moves all
