"""What the examples of two towers share, in NumPy: images, captions, and a test of retrieval.

Images are handwritten digits (8 x 8), each somewhere in a frame of 10 x 10; captions are their
English names in a few phrases. A text is a bag of letter triples, so that a text tower is one
matrix of embeddings and a layer. docs/tutorials/two_towers.py explains such a training, in PyTorch.
"""

from collections.abc import Callable, Iterator

import numpy as np
from sklearn.datasets import load_digits

FRAME = 10
PIXELS = FRAME * FRAME
DIGITS = load_digits()
TRAIN, TEST = np.split(np.random.default_rng(0).permutation(len(DIGITS.target)), [1437])
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PHRASES = ("a handwritten {}", "the digit {}", "{}", "somebody wrote {} here", "this says {}",
           "an image of a {}", "the numeral for {}", "{} in grey")  # fmt: skip
#: A phrase that no training batch has.
NEW_PHRASE = "a picture of the number {}"
#: Rows of the table of letter triples; a triple has the row that its letters add up to.
TRIPLES = 512
#: Letter triples of a caption, at most; row 0 fills shorter ones up.
LENGTH = 40
BATCH = 288


def placed(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images of the rows, each at a random place of its frame; (N, 10, 10), 0 to 1."""
    at = rng.integers(0, FRAME - 7, (2, len(rows), 1)) + np.arange(8)
    frames = np.zeros((len(rows), FRAME, FRAME), np.float32)
    frames[np.arange(len(rows))[:, None, None], at[0][:, :, None], at[1][:, None]] = (
        DIGITS.images[rows] / 16.0
    )
    return frames


def view(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, 100) views of the rows: another place, another contrast, some noise."""
    frames = placed(rows, rng) * rng.uniform(0.7, 1.3, (len(rows), 1, 1))
    return (frames + rng.normal(0.0, 0.1, frames.shape)).reshape(-1, PIXELS).astype(np.float32)


def triples(caption: str) -> np.ndarray:
    """(LENGTH,) row of every letter triple of a caption in the table of embeddings."""
    letters = f" {caption} ".encode()
    rows = [1 + (961 * a + 31 * b + c) % (TRIPLES - 1) for a, b, c in zip(
        letters, letters[1:], letters[2:], strict=False)]  # fmt: skip
    return np.array(rows + [0] * (LENGTH - len(rows)), np.int32)


def captions(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, LENGTH) a caption for each label, in any of the phrases."""
    chosen = rng.integers(0, len(PHRASES), len(labels))
    pairs = zip(chosen, labels, strict=True)
    return np.stack([triples(PHRASES[p].format(NAMES[digit])) for p, digit in pairs])


def batches(epochs: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Images (N, 100), captions (N, LENGTH) and ids (N,): the digit, which says what belongs."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(TRAIN), len(TRAIN) // BATCH):
            labels = DIGITS.target[rows]
            yield view(rows, rng), captions(labels, rng), labels.astype(np.int32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def report(title: str, images_of: Callable, texts_of: Callable) -> None:
    """Print how well test images and captions of a new phrase find each other.

    Args:
        title: first words of the line.
        images_of: function of images (N, 100) that gives features (N, D), as NumPy.
        texts_of: function of captions (N, LENGTH) that gives features (N, D), as NumPy.
    """
    images = placed(TEST, np.random.default_rng(1)).reshape(-1, PIXELS)
    texts = np.stack([triples(NEW_PHRASE.format(name)) for name in NAMES])
    scores = unit(images_of(images)) @ unit(texts_of(texts)).T
    truth = DIGITS.target[TEST]
    caption = (scores.argmax(axis=1) == truth).mean()
    found = [(truth[np.argsort(-column)[:10]] == i).mean() for i, column in enumerate(scores.T)]
    print(
        f"{title}: caption of an image {caption:.3f}, 10 images of a caption {np.mean(found):.3f}"
    )
