"""Small stand-ins for what pages of the documentation take for granted: data, a model, a run.

Comments of the pages call them before an example (`tools/run_page.py`), tests before a test.
Nothing is downloaded, and nothing here is good for anything but running code.
"""

import string
from dataclasses import replace
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def of_readme():
    """What the lines of the README name: features, labels, the parts of a model."""
    import jax.numpy as jnp
    import numpy as np
    import torch
    from keras import Sequential, layers
    from sentence_transformers import SentenceTransformer

    x, y, z = np.random.default_rng(0).normal(size=(3, 12, 8)).astype("float32")
    return {
        "x": x, "y": y, "z": z, "z1": torch.tensor(x), "z2": torch.tensor(y), "jnp": jnp,
        "labels": np.arange(12) % 3, "encoder": Sequential([layers.Dense(8)]),
        "augmentation": layers.GaussianNoise(0.1), "head": layers.Dense(4),
        "model": SentenceTransformer(str(save_sentence_encoder(".")), device="cpu"),
    }  # fmt: skip


def few_digits(count=16):
    """Let `load_images` give a few training images alone, for the rest of the process."""
    import fmicl_recipes.data as sources

    load_images = sources.load_images

    def load_few(*arguments, **options):
        data = load_images(*arguments, **options)
        images, labels = data.train_images[:count], data.train_labels[:count]
        return replace(data, train_images=images, train_labels=labels)

    sources.load_images = load_few


def small_run(folder="runs/js", encoder="resnet18", **options):
    """A run folder: PyTorch trains an encoder for an epoch on a few random images, 32 x 32."""
    import numpy as np

    from fmicl_lightning import MethodTrainer
    from fmicl_recipes import TrainSettings
    from fmicl_recipes.data import ImageData
    from fmicl_recipes.run import train_run

    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    data = ImageData("random", images[:8], None, images[8:], None)
    settings = TrainSettings(
        data="random", encoder=encoder, width=4, epochs=1, batch_size=8, divergence="js", **options
    )
    train_run(MethodTrainer, settings, folder, data=data, progress=False, pictures=False)


def save_sentence_encoder(folder, words="", name="whole"):
    """The folder, called `name`, of a random BERT of two layers that knows words and letters."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = string.ascii_lowercase
    pieces = dict.fromkeys([*SPECIAL, *words.split(), *letters, *("##" + c for c in letters)])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    plain, whole = Path(folder, "plain"), Path(folder, name)
    BertModel(config).save_pretrained(plain)
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(plain)
    encoder = Transformer(str(plain), max_seq_length=32)
    SentenceTransformer(modules=[encoder, Pooling(16, "mean")], device="cpu").save_pretrained(
        str(whole), create_model_card=False
    )
    return whole
