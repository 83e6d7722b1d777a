"""What runs in a clean environment, by its Python and the wheel alone: smoke.py NAME PACKAGE...

Imports every module of the packages, then computes a loss, which has to equal the float64
reference, or trains for an epoch.
"""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np

#: Libraries that some modules import and the extra of their package does not bring: Triton comes
#: with torch for CUDA, and `fmicl check` and Keras' packages take what frameworks there are.
OPTIONAL = {"triton", "torch", "jax", "tensorflow", "keras", "lightning", "flax", "optax"}
SETTINGS = {"divergence": "js", "similarity": "gaussian", "alpha": 7.0, "negatives": "anchor"}
#: What the extra "recipes" brings and is imported late, when images or tables are read.
LATE = ("datasets", "grain.python", "matplotlib.pyplot", "safetensors.numpy", "sklearn.neighbors")
TRAIN = {"lightning": [], "flax": ["--framework", "jax"],
         "keras": ["--framework", "tensorflow", "--keras-backend", "jax"]}  # fmt: skip


def modules(package: str) -> list[str]:
    """Import all modules of a package; the names of those left out, as OPTIONAL says."""
    home = importlib.import_module(package)
    left_out = []
    for module in pkgutil.walk_packages(home.__path__, f"{package}."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in OPTIONAL:
                raise
            left_out.append(f"{module.name} ({error.name})")
    return left_out


def torch_loss(x, y):
    import torch

    from fmicl_torch import fmicl_loss

    return fmicl_loss(torch.tensor(x), torch.tensor(y), **SETTINGS)


def jax_loss(x, y):
    import jax

    from fmicl_jax import fmicl_loss

    jax.config.update("jax_enable_x64", True)
    return fmicl_loss(jax.numpy.asarray(x), jax.numpy.asarray(y), **SETTINGS)


def tensorflow_loss(x, y):
    import tensorflow as tf

    from fmicl_tensorflow import fmicl_loss

    return fmicl_loss(tf.constant(x), tf.constant(y), **SETTINGS)


def text_loss(x, y):
    import torch

    from fmicl_sentence_transformers import FMICLLoss

    loss = FMICLLoss(torch.nn.Identity(), **SETTINGS)
    return loss.compute_loss_from_embeddings([torch.tensor(x), torch.tensor(y)])


LOSSES = {"torch": torch_loss, "jax": jax_loss, "tensorflow": tensorflow_loss, "text": text_loss}


def same_loss(name: str) -> str:
    """Compare the loss of 8 pairs with the reference; for "base", the reference with a formula."""
    from fmicl_core import FMICL, fmicl_reference

    if name in LOSSES:
        x, y = np.random.default_rng(0).normal(size=(2, 8, 4))
        truth = fmicl_reference(x, y, FMICL(**SETTINGS)).loss
        value = float(LOSSES[name](x, y))
    else:  # KL of orthogonal rows, sigma^2 = 0.5: u = 1 of positive pairs, exp(-2) of negative ones
        truth = -1.0 + 7.0 * np.exp(-2.0)
        value = fmicl_reference(np.eye(8), np.eye(8), FMICL(alpha=7.0)).loss
    if not (np.isfinite(truth) and abs(value - truth) <= 1e-12 * abs(truth)):
        raise SystemExit(f"expected the loss {truth!r}, got {value!r}")
    return f"loss {value:.6f}, as it should be"


def trains(name: str) -> str:
    """Train on digits for an epoch, evaluate, and embed, by the command line."""
    fmicl = str(Path(sys.executable).with_name("fmicl"))
    options = ["--epochs", "1", "--limit", "256", "--device", "cpu", "--out", "run"]
    train = [fmicl, "train", "simclr", "--preset", "digits", *TRAIN[name], *options]
    embed = [fmicl, "embed", "run", "--data", "digits", "--out", "features.npz"]
    for command in (train, embed):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-2000:]}")
    return "trained on digits"


def cli(name: str) -> str:
    command = [str(Path(sys.executable).with_name("fmicl")), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said.strip()


def main(name: str, *packages: str) -> None:
    left_out = [module for package in packages for module in modules(package)]
    if "fmicl_recipes" in sys.modules:
        for module in LATE:
            importlib.import_module(module)
    last = trains(name) if name in TRAIN else cli(name) if name == "cli" else same_loss(name)
    without = f", but for {', '.join(left_out)}" if left_out else ""
    print(f"every module of {', '.join(packages)} imported{without}; {last}")


if __name__ == "__main__":
    main(*sys.argv[1:])
